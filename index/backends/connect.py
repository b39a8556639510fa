"""From a URL to a backend."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from index.backends.faiss import FaissBackend
from index.backends.interface import About, Backend, BackendError, scheme_of, without_secrets
from index.backends.milvus import MilvusBackend
from index.backends.postgres import PostgresBackend

KNOWN = "postgresql://user:password@host:5432/database, http://host:19530 (Milvus), file:///folder (FAISS)"


def create_backend(url: str, name: str, about: About, *, replace: bool = False) -> Backend:
    """A new, empty backend at `url`; :class:`BackendError` where `name` is taken there, unless `replace`."""
    match scheme_of(url):
        case "postgresql" | "postgres":
            return PostgresBackend.create(url, name, about, replace=replace)
        case "http" | "https":
            return MilvusBackend.create(url, name, about, replace=replace)
        case "file":
            return FaissBackend.create(_folder(url), name, about, replace=replace)
    raise _unknown(url)


def open_backend(url: str, name: str) -> Backend:
    """What :func:`create_backend` made."""
    match scheme_of(url):
        case "postgresql" | "postgres":
            return PostgresBackend.open(url, name)
        case "http" | "https":
            return MilvusBackend.open(url, name)
        case "file":
            return FaissBackend.open(_folder(url), name)
    raise _unknown(url)


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _unknown(url: str) -> BackendError:
    return BackendError(f"expected the URL of a backend ({KNOWN}), got {without_secrets(url)!r}")
