"""What can go wrong in the index and the store, one class per thing a caller would treat differently."""


class StoreError(Exception):
    """Base of everything that is wrong with a store, a collection or an embedding folder on disk."""


class CatalogueError(StoreError):
    """The catalogue (the SQLite truth) is absent, damaged or of an unknown format."""


class SnapshotError(StoreError):
    """A saved index is absent, damaged, or does not belong to the catalogue beside it."""


class EmbeddingsError(StoreError):
    """An embedding folder is absent, unfinished, damaged, or belongs to another job."""


class CollectionNotFoundError(StoreError):
    """The store has no collection of that name."""


class CollectionExistsError(StoreError):
    """The store already has a collection of that name."""


class CollectionNameError(StoreError):
    """A collection's name that could not be a folder's name everywhere."""


class ModelMismatchError(StoreError):
    """Points of two models would meet in one space."""

    def __init__(self, where: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{where} holds points of model {found}, but model {expected} is loaded, and distances between the "
            f"two mean nothing: use the checkpoint of model {found}, or embed the photos again with model "
            f"{expected} and run 'lhier index build --replace'"
        )
        self.expected = expected
        self.found = found


class ImageReferenceError(StoreError):
    """An item's image lies outside the collection's image folder, or is gone."""


class PointError(ValueError):
    """Points or ids that an index or a catalogue cannot take (shape, dtype, not finite, duplicate)."""


class DeviceError(ValueError):
    """A device that is unknown, or that FAISS cannot use here."""


class FaissMissingError(ImportError):
    """FAISS is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "the index needs FAISS, which is not installed: run 'pip install \"lhier[cpu]\"' "
            "(with CUDA: 'pip install \"lhier[gpu]\"'; never both, they install the same module)"
        )
