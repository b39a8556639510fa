"""What can be searched by: a photo, an item, a point, a node, a URL."""

import base64
from collections.abc import Iterable
from pathlib import Path

from service.schemas.query import Query

Photo = Path | bytes


def encoded(photo: Photo) -> str:
    """A photo as requests hold it: base64."""
    return base64.b64encode(photo.read_bytes() if isinstance(photo, Path) else photo).decode("ascii")


def photo(of: Photo) -> Query:
    """A query by photo: a file of this machine, or the bytes of one."""
    return Query(image=encoded(of))


def item(item_id: str) -> Query:
    """A query by a stored item."""
    return Query(item_id=item_id)


def point(space: Iterable[float]) -> Query:
    """A query by the space part (d,) of a point of the server's model."""
    return Query(embedding=[float(coordinate) for coordinate in space])


def node(node_id: str) -> Query:
    """A query by a node of the tree."""
    return Query(node_id=node_id)


def url(address: str) -> Query:
    """A query by a photo that the server fetches, if it is told to fetch any."""
    return Query(url=address)
