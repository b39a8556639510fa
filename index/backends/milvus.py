"""Milvus, spoken to over gRPC."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

import numpy as np

from index.backends.engine import Engine, Proposals
from index.backends.interface import (
    About,
    BackendError,
    BackendMissingError,
    BackendNotFoundError,
    table_name,
    told,
    without_secrets,
)
from index.exact_points import Float32, Int64

METRICS = {"ball": "L2", "lorentz": "IP"}
INDEXES = {"exact": "FLAT", "hnsw": "HNSW"}
ABOUT = "lhier.about"  # the collection's property that holds it
SECONDS = 30  # for one call
WRITE_NUMBERS = 500_000  # in one call: 4 MB, of the 64 MB that a server takes
IDS = 10_000


class MilvusBackend(Engine):
    """Points in a Milvus collection ``lhier_<name>``: id INT64, row FLOAT_VECTOR, space ARRAY of FLOAT.

    `row` is what Milvus searches (L2 over ball, IP over Lorentz coordinates; index FLAT, which compares every row, or
    HNSW, which proves nothing), `space` the exact point. Reads are of consistency "Strong": a search sees every write
    before it. Writes go in portions of 4 MB, each one whole or not at all; after a failure in between, write again.
    Milvus returns at most 16,384 rows, and arrays of at most 4,096 numbers. From 16,384 numbers of queries in one
    call, it may compute distances by matrix products, which lose the digits that the proof needs; we ask less at once.

    Tested over gRPC against milvus-lite 3.2, which is *not* distributed: one Python process over one folder, with
    Milvus's protocol and (for FLAT) its results, not its code. Nothing here was run against a cluster.
    """

    name = "milvus"
    max_candidates: ClassVar[int] = 16_384
    max_numbers: ClassVar[int] = 16_383

    def __init__(self, url: str, collection: str, about: About, client: Any) -> None:
        super().__init__(about)
        self._url = url
        self._collection = collection
        self._client = client

    @classmethod
    def create(cls, url: str, name: str, about: About, *, replace: bool = False) -> Self:
        """A new, empty collection; :class:`BackendError` where there is one, unless `replace`."""
        collection = table_name(name)
        client = _connect(url)
        try:
            types = importlib.import_module("pymilvus").DataType
            with _failures(url):
                if client.has_collection(collection, timeout=SECONDS):
                    if not replace:
                        raise BackendError(
                            f"{without_secrets(url)} has a collection {collection} already: push with --replace"
                        )
                    client.drop_collection(collection, timeout=SECONDS)
                width = about.embedding_dim + (about.coordinates == "lorentz")
                schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("id", types.INT64, is_primary=True)
                schema.add_field("row", types.FLOAT_VECTOR, dim=width)
                schema.add_field("space", types.ARRAY, element_type=types.FLOAT, max_capacity=about.embedding_dim)
                indexes = client.prepare_index_params()
                indexes.add_index(
                    "row", index_type=INDEXES[about.scan], metric_type=METRICS[about.coordinates], params={}
                )
                client.create_collection(
                    collection, schema=schema, index_params=indexes, properties={ABOUT: about.to_json()},
                    consistency_level="Strong", timeout=SECONDS,
                )  # fmt: skip
        except BaseException:
            client.close()
            raise
        return cls(url, collection, about, client)

    @classmethod
    def open(cls, url: str, name: str) -> Self:
        """An existing collection."""
        collection = table_name(name)
        client = _connect(url)
        try:
            with _failures(url):
                if not client.has_collection(collection, timeout=SECONDS):
                    raise BackendNotFoundError(
                        f"{without_secrets(url)} has no collection {collection}: run 'lhier backend push'"
                    )
                where = f"the collection {collection} of {without_secrets(url)}"
                properties = client.describe_collection(collection, timeout=SECONDS).get("properties", {})
                about = About.from_json(properties.get(ABOUT), where)
                kind = client.describe_index(collection, "row", timeout=SECONDS)["index_type"]
                if kind != INDEXES[about.scan]:
                    raise BackendError(
                        f"{where} has an index {kind}, expected {INDEXES[about.scan]}: push to it with --replace"
                    )
                client.load_collection(collection, timeout=SECONDS)
        except BaseException:
            client.close()
            raise
        return cls(url, collection, about, client)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @property
    def count(self) -> int:
        """How many points there are."""
        with _failures(self._url):
            found = self._client.query(
                self._collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=SECONDS
            )
            return int(found[0]["count(*)"])

    def _write(self, ids: Int64, rows: Float32, points: Float32) -> None:
        step = max(1, WRITE_NUMBERS // (rows.shape[1] + points.shape[1]))
        with _failures(self._url):
            for start in range(0, len(ids), step):
                part = slice(start, start + step)
                entities = [
                    {"id": id_, "row": row, "space": point}
                    for id_, row, point in zip(
                        ids[part].tolist(), rows[part].tolist(), points[part].tolist(), strict=True
                    )
                ]
                self._client.upsert(self._collection, entities, timeout=SECONDS)

    def _delete(self, ids: Int64) -> int:
        deleted = 0
        with _failures(self._url):
            for start in range(0, len(ids), IDS):
                # Milvus counts what it was asked to delete, not what was there.
                found = self._client.query(
                    self._collection, ids=ids[start : start + IDS].tolist(), output_fields=["id"],
                    consistency_level="Strong", timeout=SECONDS,
                )  # fmt: skip
                there = [entity["id"] for entity in found]
                if there:
                    self._client.delete(self._collection, ids=there, timeout=SECONDS)
                deleted += len(there)
        return deleted

    def _nearest(self, rows: Float32, count: int) -> list[Proposals]:
        metric = METRICS[self.about.coordinates]
        params = {"ef": count} if self.about.scan == "hnsw" else {}
        with _failures(self._url):
            found = self._client.search(
                self._collection, data=rows.tolist(), limit=count, anns_field="row", output_fields=["space"],
                search_params={"metric_type": metric, "params": params}, consistency_level="Strong", timeout=SECONDS,
            )  # fmt: skip
        return [self._proposals(hits) for hits in found]

    def _proposals(self, hits: Any) -> Proposals:
        ids = np.array([hit["id"] for hit in hits], dtype=np.int64)
        scores = np.array([hit["distance"] for hit in hits], dtype=np.float64)
        points = np.array([hit["entity"]["space"] for hit in hits], dtype=np.float32)
        # Milvus gives the squares of Euclidean distances.
        signed = np.sqrt(np.maximum(scores, 0)) if self.about.coordinates == "ball" else scores
        return Proposals(ids, signed, points.reshape(len(ids), self.about.embedding_dim))


def _connect(url: str) -> Any:
    try:
        library = importlib.import_module("pymilvus")
    except ImportError as error:
        raise BackendMissingError("the Milvus backend", "milvus") from error
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    # Apart from the address, so that no message of the client's can show them.
    token = ":".join(unquote(part) for part in (parts.username, parts.password) if part)
    try:
        return library.MilvusClient(f"{parts.scheme}://{host}{parts.path}", token=token, timeout=SECONDS)
    except library.MilvusException as error:
        raise BackendError(
            f"cannot connect to Milvus at {without_secrets(url)} ({told(error, url)}): start it there, or correct the "
            "URL (http://user:password@host:19530)"
        ) from None


@contextmanager
def _failures(url: str) -> Iterator[None]:
    failure: type[Exception] = importlib.import_module("pymilvus").MilvusException
    try:
        yield
    except failure as error:
        raise BackendError(f"Milvus at {without_secrets(url)} failed: {told(error, url)}") from error
