"""Snapshots, by the client."""

from pathlib import Path

from service.client.base import Base, calls, quoted
from service.client.files import as_body, fetch, sha256_of
from service.client.transport import parse
from service.schemas.jobs import JobAnswer, SnapshotInfo, SnapshotsAnswer


class SnapshotMethods(Base):
    """Taken, listed, fetched, sent, restored."""

    @calls("list_snapshots")
    def snapshots(self, *, collection: str | None = None) -> list[SnapshotInfo]:
        """The snapshots of a collection, the newest first."""
        return parse(SnapshotsAnswer, self._get(self._snapshot(collection))).snapshots

    @calls("take_snapshot")
    def take_snapshot(self, *, collection: str | None = None) -> JobAnswer:
        """Take a snapshot, as a job."""
        return parse(JobAnswer, self._transport.request("POST", self._snapshot(collection), idempotent=False))

    @calls("snapshot_by_name")
    def download_snapshot(self, name: str, to: Path, *, collection: str | None = None) -> None:
        """Fetch a snapshot into the file ``to``. Raises ``OSError`` where it came damaged."""
        fetch(self._transport, self._snapshot(collection, name), to)

    @calls("put_snapshot")
    def upload_snapshot(self, file: Path, *, collection: str | None = None) -> JobAnswer:
        """Send a snapshot, with its checksum, and restore it as a job; a collection that does not exist is made."""
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(file.stat().st_size)}
        parameters = {"checksum": sha256_of(file)}
        with as_body(file) as prepare:
            path = self._snapshot(collection, "upload")
            answer = self._transport.request(
                "PUT", path, prepare=prepare, headers=headers, params=parameters, idempotent=False
            )
        return parse(JobAnswer, answer)

    @calls("restore_snapshot")
    def restore_snapshot(self, name: str, *, collection: str | None = None) -> JobAnswer:
        """Put a snapshot in place of the live collection, as a job."""
        path = self._snapshot(collection, name) + "/restore"
        return parse(JobAnswer, self._transport.request("POST", path, idempotent=False))

    @calls("delete_snapshot")
    def delete_snapshot(self, name: str, *, collection: str | None = None) -> None:
        """Delete a snapshot."""
        self._transport.request("DELETE", self._snapshot(collection, name))

    def _snapshot(self, collection: str | None, name: str | None = None) -> str:
        return f"{self._in(collection)}/snapshots" + ("" if name is None else f"/{quoted(name)}")
