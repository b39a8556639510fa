"""Photos that a command is asked about, as points of the collection that it asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from index.catalogue import Catalogue


def points_of(files: Sequence[Path], catalogue: "Catalogue", checkpoint: Path | None) -> "npt.NDArray[np.float32]":
    """Space parts (n, d) of photos, by `checkpoint` or the encoder that the catalogue's points came from.

    ``ClickException`` for a photo or a checkpoint that cannot be read, ``UsageError`` where no encoder is known,
    :class:`ModelMismatchError` for one that made other points.
    """
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.embedder import Embedder
    from hyperbolic.images import ImageError, read_image
    from index.errors import ModelMismatchError

    folder = checkpoint or catalogue.checkpoint
    if folder is None:
        raise click.UsageError("the collection does not say which checkpoint made it: give --checkpoint")
    images = []
    for file in files:
        try:
            images.append(read_image(file))
        except ImageError as error:
            raise click.ClickException(f"{file}: {error}") from error
    try:
        embedder = Embedder.load(folder)
    except CheckpointError as error:
        raise click.ClickException(f"{error}; where it moved, give --checkpoint") from error
    if embedder.model_hash != catalogue.model_hash:
        where = str(catalogue.path.parent)
        raise ModelMismatchError(where, expected=embedder.model_hash, found=catalogue.model_hash)
    return embedder.embed(images)
