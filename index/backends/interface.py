"""What every backend offers, what it records of the points it holds, and how it fails."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.errors import PointError, StoreError
from index.exact_points import Float32, Int64
from index.points import some, valid_ids, valid_points

Bool = npt.NDArray[np.bool_]
Scan = Literal["exact", "hnsw"]
Frame = Literal["ball", "lorentz"]

FORMAT_VERSION = 1
_SECRET = re.compile("pass|token|secret")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,55}")


class BackendError(StoreError):
    """A backend that cannot be reached, that refuses, or that holds something else."""


class BackendNotFoundError(BackendError):
    """Nothing of that name was pushed there."""


class BackendMissingError(BackendError):
    """The package that talks to a backend is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed: run 'pip install \"lhier[{extra}]\"'")


class Answer(NamedTuple):
    """The k nearest points of each query, nearest first; where there are fewer, the rest is inf and -1."""

    distances: Float64  # (q, k), geodesic, in float64 from the stored float32 points: right whatever `exact` says
    ids: Int64  # (q, k)
    exact: Bool  # (q,): proven that no stored point is missing; False means unproven, not wrong


@dataclass(frozen=True, slots=True)
class About:
    """What a backend records of its points when it is created, and requires of what comes later.

    `coordinates` and `scan` are those of engines beyond the process; the embedded index chooses by itself.
    """

    embedding_dim: int
    c: float
    model_hash: str
    coordinates: Frame = "ball"
    scan: Scan = "exact"

    def __post_init__(self) -> None:
        if self.embedding_dim < 1 or not (np.isfinite(self.c) and self.c > 0):
            raise ValueError(f"expected embedding_dim >= 1 and a finite c > 0, got {self.embedding_dim} and {self.c}")
        for value, known in ((self.coordinates, get_args(Frame)), (self.scan, get_args(Scan))):
            if value not in known:
                raise ValueError(f"expected one of {', '.join(known)}, got {value!r}")

    def to_json(self) -> str:
        """One line that :meth:`from_json` reads."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | None, where: str) -> Self:
        """What :meth:`to_json` wrote; :class:`BackendError` for anything else."""
        try:
            fields: dict[str, Any] = json.loads(text or "")
            version = fields.pop("format_version")
            if version == FORMAT_VERSION:
                return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackendError(
                f"{where} was not made by lhier: choose another --name, or push to it with --replace"
            ) from error
        raise BackendError(f"{where} has format {version}, expected {FORMAT_VERSION}: push to it with --replace")


class Backend(Protocol):
    """Points under the int64 rows of a catalogue; the catalogue keeps string ids, labels and photos.

    :class:`PointError` for points or ids that cannot be taken, and then nothing is changed;
    :class:`BackendError` where the engine fails.
    """

    @property
    def name(self) -> str:
        """ "faiss", "milvus" or "postgres"."""

    @property
    def about(self) -> About:
        """What the points are."""

    def upsert(self, ids: npt.ArrayLike, space: npt.ArrayLike) -> None:
        """Add points, or move those whose id exists: ids (n,) >= 0 and unique, space parts (n, d)."""

    def delete(self, ids: npt.ArrayLike) -> int:
        """Delete points by id; unknown ids are passed over. Returns how many were deleted."""

    @property
    def count(self) -> int:
        """How many points there are."""

    def search(self, space_queries: npt.ArrayLike, k: int) -> Answer:
        """The k nearest points of each query, space parts (q, d); equal distances in the order of their ids."""

    def close(self) -> None:
        """Let go of the engine; what was written stays."""


def checked(ids: npt.ArrayLike, space: npt.ArrayLike, embedding_dim: int) -> tuple[Int64, Float32]:
    """Points for an upsert; :class:`PointError` for bad ones, or an id that comes twice."""
    points = valid_points(space, embedding_dim).astype(np.float32)
    new_ids = valid_ids(ids)
    if len(new_ids) != len(points):
        raise PointError(f"expected one id per point, got {len(points)} points and {len(new_ids)} ids")
    unique, counts = np.unique(new_ids, return_counts=True)
    if (counts > 1).any():
        raise PointError(f"expected unique ids, got {some(unique[counts > 1])} more than once")
    return new_ids, points


def table_name(name: str) -> str:
    """The engine's name for a collection: letters, digits and _ are what every engine takes."""
    if not _NAME.fullmatch(name):
        raise BackendError(f"expected a name of up to 56 characters a-z, 0-9 and _, a letter first, got {name!r:.80}")
    return f"lhier_{name}"


def without_secrets(url: str) -> str:
    """A URL as it may be shown and logged: no password, no token."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = [(key, "***" if _SECRET.search(key) else value) for key, value in parse_qsl(parts.query)]
    netloc = f"{name}{':***' if colon else ''}{at}{host}"
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query, safe="*/"), ""))


def told(error: Exception, url: str) -> str:
    """An engine's words on one line, without what is secret in the URL."""
    text = " ".join(str(error).split())
    parts = urlsplit(url)
    secrets = [parts.password, parts.password and unquote(parts.password)]
    secrets += [value for key, value in parse_qsl(parts.query) if _SECRET.search(key)]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def scheme_of(url: str) -> str:
    """The part before ``://``; empty where there is none."""
    return url.partition("://")[0].lower() if "://" in url else ""
