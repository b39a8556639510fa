"""What this service runs and serves."""

from service.schemas.common import Answer


class CollectionInfo(Answer):
    """A collection that is served; ``fault`` where it cannot be used at present."""

    name: str
    count: int | None = None
    generation: str | None = None
    fault: str | None = None


class Limits(Answer):
    """What a request may bring; bytes, pixels, seconds."""

    body_bytes: int
    upload_bytes: int
    image_bytes: int
    image_pixels: int
    image_min_side: int
    images: int
    hits: int
    in_flight: int
    queued: int
    deadline_s: float


class Info(Answer):
    """What runs here. ``c`` is the curvature's magnitude (curvature -c), ``embedding_dim`` the dimension d."""

    version: str
    model_hash: str
    backbone: str
    image_size: int
    embedding_dim: int
    c: float
    limits: Limits
    default_collection: str
    collections: list[CollectionInfo]
