"""Every method of the typed client against the real server."""

import inspect
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.client import Client, ClientError, encoded, item, node, photo, point, url
from service.client.jobs import read_events
from service.schemas.filters import Filter
from service.schemas.items import ItemWrite
from service.schemas.search import SearchRequest

from .conftest import AWKWARD, Trip, draw
from .conftest import encoded as image_file
from .operations import operations

# PUT and POST of the same: curl -T sends the one, a form the other.
SAME = {"post_snapshot": "put_snapshot"}


@pytest.fixture(scope="module")
def client(disposable: str) -> Iterator[Client]:
    with Client(disposable, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def tree(client: Client) -> str:
    """Id of the root of a tree over the default collection."""
    job = client.start_job("hierarchy", min_size=1)
    assert client.wait(job.id, timeout=60).state == "done"
    return client.nodes().nodes[0].id


@pytest.fixture
def shoes(client: Client) -> Iterator[str]:
    """An empty collection."""
    yield client.create_collection("shoes").name
    client.delete_collection("shoes")


def test_every_operation_has_a_method() -> None:
    called: set[str] = set()
    for _, method in inspect.getmembers(Client, inspect.isfunction):
        called.update(getattr(method, "operations", ()))
    documented = {operation.id for operation in operations()}
    assert called == documented - set(SAME)
    assert set(SAME) | set(SAME.values()) <= documented


def test_importing_it_loads_no_model_and_no_index() -> None:
    code = "import sys, service.client; sys.exit(any(m in sys.modules for m in ('torch', 'faiss', 'openvino', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_server(client: Client) -> None:
    info = client.info()
    assert info.default_collection == "default"
    assert info.embedding_dim == 16
    assert client.is_live()
    assert client.is_ready() in {True, False}
    assert "lhier_build_info" in client.metrics()


def test_search_by_everything(client: Client, trip: Trip, tree: str) -> None:
    path = trip.photos / "010.png"
    by_photo = client.search(photo(path), limit=3, exact=True, include=["path", "thumbnail"])
    assert by_photo.hits[0].id == trip.ids[10]
    assert by_photo.hits[0].distance < 1e-3
    assert by_photo.exact
    assert by_photo.hits[0].thumbnail
    assert client.search(photo(path.read_bytes()), limit=3).hits[0].id == trip.ids[10]
    by_item = client.search(item(trip.ids[10]), limit=5, collection="default")
    assert trip.ids[10] not in [hit.id for hit in by_item.hits]
    answer = client.embeddings([path])
    space = answer.results[0].embedding
    assert isinstance(space, list)
    assert client.search(point(np.asarray(space))).hits[0].id == trip.ids[10]
    assert client.search(node(tree), limit=2).hits
    with pytest.raises(ClientError) as error:
        client.search(url("https://photos.example/apple.jpg"))
    assert (error.value.status, error.value.code) == (403, "urls_disabled")
    assert error.value.request_id


def test_search_options(client: Client, trip: Trip) -> None:
    first = client.search(item(trip.ids[10]), limit=4)
    second = client.search(item(trip.ids[10]), limit=4, cursor=first.next_cursor)
    both = client.search(item(trip.ids[10]), limit=8)
    assert [hit.id for hit in first.hits + second.hits] == [hit.id for hit in both.hits]
    near = client.search(item(trip.ids[10]), max_distance=first.hits[1].distance)
    assert [hit.id for hit in near.hits] == [hit.id for hit in first.hits[:2]]
    small = Filter.model_validate({"must": [{"key": "number", "range": {"lt": 3}}]})
    assert {hit.metadata["number"] for hit in client.search(item(trip.ids[10]), filter=small).hits} == {0, 1, 2}
    grouped = client.search(item(trip.ids[10]), group_level=1, limit=50)
    labels = [hit.path[0] for hit in grouped.hits]
    assert len(labels) == len(set(labels)) > 1
    by_number = client.search(item(trip.ids[10]), group_by="number", limit=50)
    assert len(by_number.hits) == len(trip.ids) - 1


def test_batch(client: Client, trip: Trip) -> None:
    answer = client.search_batch([
        SearchRequest(query=item(trip.ids[7]), limit=2), SearchRequest(query=item("nowhere"))
    ])  # fmt: skip
    assert [result.status for result in answer.results] == [200, 404]
    assert answer.results[0].answer == client.search(item(trip.ids[7]), limit=2)
    assert answer.results[1].problem is not None
    assert answer.results[1].problem.code == "item_not_found"


def test_embeddings(client: Client, trip: Trip) -> None:
    photos = [trip.photos / "000.png", (trip.photos / "001.png").read_bytes()]
    listed = client.embeddings(photos, time=True)
    for result in listed.results:
        space = np.asarray(result.embedding)
        assert result.time == pytest.approx(np.sqrt(1 / listed.c + space @ space), rel=1e-5)
    assert client.embeddings(photos, encoding="base64", space="poincare").encoding == "base64"


def test_items(client: Client, trip: Trip) -> None:
    for item_id in AWKWARD:
        found = client.item(item_id)
        assert found.id == item_id
        assert client.image(item_id) == (trip.photos / f"{trip.ids.index(item_id):03}.png").read_bytes()
    small, large = (client.thumbnail("Fruit", size=size) for size in ("160", "320"))  # type: ignore[arg-type]
    assert small[:2] == large[:2] == b"\xff\xd8"
    assert [each.id for each in client.scroll(page=7)] == list(trip.ids)
    assert {each.id for each in client.sample(1000)} == set(trip.ids)
    assert client.count() == len(trip.ids)


def test_writes(client: Client, shoes: str) -> None:
    def writes(number: int) -> ItemWrite:
        return ItemWrite(
            id=f"a/{number}", image=encoded(image_file(draw(number))), labels=("Shoe",), metadata={"n": number}
        )

    answer = client.upsert([*map(writes, range(4)), ItemWrite(id="bad", image="AAAA")], collection=shoes)
    assert (answer.written, answer.failed) == (4, 1)
    assert [result.status for result in answer.results] == [201] * 4 + [415]
    with pytest.raises(ClientError) as error:
        client.upsert([writes(9), ItemWrite(id="bad", image="AAAA")], atomic=True, collection=shoes)
    assert error.value.status == 422
    assert client.count(collection=shoes) == 4
    assert client.item("a/2", collection=shoes).metadata == {"n": 2}
    client.delete_item("a/2", collection=shoes)
    assert client.delete(["a/1", "a/2"], collection=shoes) == 1
    assert [each.id for each in client.scroll(collection=shoes)] == ["a/0", "a/3"]
    with pytest.raises(ClientError) as error:
        client.upsert([writes(1)], model_hash="another", collection=shoes)
    assert error.value.status == 409


def test_collections(client: Client) -> None:
    made = client.create_collection("hats", kind="flat", schema={"fields": {"size": "integer"}})
    assert made.metadata.fields == {"size": "integer"}
    assert client.collection("hats") == made
    assert "hats" in [each.name for each in client.collections().collections]
    client.delete_collection("hats")
    with pytest.raises(ClientError) as error:
        client.collection("hats")
    assert (error.value.status, error.value.code) == (404, "collection_not_found")


def test_the_tree(client: Client, trip: Trip, tree: str) -> None:
    root = client.node(tree)
    assert root.size == len(trip.ids)
    assert root.parent is None
    listed = client.nodes(tree, depth=2, limit=50)
    assert listed.nodes[0].id == tree
    assert {each.id for each in client.node_items(tree, page=5)} == set(trip.ids)
    nearest = [each.distance for each in client.node_items(tree, order="nearest")]
    assert nearest == sorted(nearest)
    assert client.name_node(tree, "everything").name == "everything"
    assert client.name_node(tree, None).name is None
    query = photo(trip.photos / "010.png")
    path = client.ancestors(query)
    assert path.nodes[-1].id == tree
    common = client.common_ancestor([query, item(trip.ids[11])])
    assert 0 <= common.probability <= 1
    assert client.zoom(query, 64).node.id == tree
    way = client.traverse(query, item(trip.ids[12]), steps=3, limit=2)
    assert len(way.steps) == 3
    assert way.steps[0].items[0].id == trip.ids[10]
    assert client.traverse(query).steps[-1].radius == pytest.approx(0, abs=1e-6)
    drawn = client.projection(items=10, nodes=5)
    assert drawn.of_items == len(trip.ids)
    assert all(each.x**2 + each.y**2 < 1 for each in drawn.items)
    assert client.projection(tree).nodes[0].id == tree


def test_jobs(client: Client, shoes: str, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for number in range(3):
            made.writestr(f"Shoe/{number}.png", image_file(draw(number)))
        made.writestr("Shoe/broken.png", b"no photo")
    started = client.upload_job("import", archive, collection=shoes)
    told = list(client.events(started.id))
    assert told[-1].state == "done"
    assert (told[-1].done, told[-1].failed) == (3, 1)
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert client.count(collection=shoes) == 3
    (failure,) = client.job_errors(started.id)
    assert "broken" in failure.item
    assert client.job(started.id) == told[-1]
    embedded = client.wait(client.upload_job("embed", archive, collection=shoes).id, timeout=60)
    client.job_result(embedded.id, tmp_path / "points.tar")
    assert (tmp_path / "points.tar").stat().st_size > 1000
    assert not list(tmp_path.glob("*.partial"))
    assert [job.id for job in client.jobs(collection=shoes, page=1)] == [embedded.id, started.id]
    assert [job.id for job in client.jobs(collection=shoes, state="failed")] == []
    for change, code in ((client.cancel_job, "job_"), (client.retry_job, "job_")):
        with pytest.raises(ClientError) as error:
            change(started.id)
        assert error.value.status == 409
        assert error.value.code.startswith(code)
    with pytest.raises(ClientError, match="404"):
        client.job_result("none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_waiting_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    job = client.wait(client.start_job("rebuild").id, timeout=60)
    assert job.state == "done"
    monkeypatch.setattr(client, "job", lambda _: job.model_copy(update={"state": "running"}))
    with pytest.raises(TimeoutError, match=r"running after 0\.1 s"):
        client.wait(job.id, timeout=0.1)


def test_snapshots(client: Client, trip: Trip, tmp_path: Path) -> None:
    client.wait(client.take_snapshot().id, timeout=60)
    (kept,) = client.snapshots()
    assert kept.count == len(trip.ids)
    file = tmp_path / "default.tar"
    client.download_snapshot(kept.name, file)
    assert file.stat().st_size == kept.size
    try:
        assert client.wait(client.upload_snapshot(file, collection="copy").id, timeout=60).state == "done"
        assert [each.id for each in client.scroll(collection="copy")] == list(trip.ids)
        client.delete_item("Fruit", collection="copy")
        (sent,) = client.snapshots(collection="copy")
        assert client.wait(client.restore_snapshot(sent.name, collection="copy").id, timeout=60).state == "done"
        assert client.count(collection="copy") == len(trip.ids)
    finally:
        client.delete_collection("copy")
    client.delete_snapshot(kept.name)
    assert client.snapshots() == []
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ClientError) as error:
        client.upload_snapshot(damaged)
    assert error.value.status == 422


def test_what_comes_damaged_is_not_kept(tmp_path: Path) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"bits", headers={"X-Checksum-SHA256": "0" * 64})

    client = Client("http://test", transport=httpx.MockTransport(answer))
    with pytest.raises(OSError, match="damaged"):
        client.download_snapshot("x.tar", tmp_path / "x.tar", collection="default")
    assert list(tmp_path.iterdir()) == []


def test_events_are_taken_up_where_they_broke(client: Client, shoes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = client.wait(client.start_job("rebuild", collection=shoes).id, timeout=60).model_copy(
        update={"state": "running"}
    )
    done = job.model_copy(update={"state": "done"})
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        match len(asked):
            case 1:
                return httpx.Response(200, text=f"id: 4\nevent: progress\ndata: {job.model_dump_json()}\n\n: ping\n\n")
            case 2:
                raise httpx.ConnectError("the server starts anew")
            case 3:
                return httpx.Response(503, json={"code": "draining", "detail": "it stops"})
        return httpx.Response(200, text=f"id: 5\nevent: end\ndata: {done.model_dump_json()}\n\n")

    monkeypatch.setattr("service.client.jobs.time.sleep", lambda _: None)
    broken = Client("http://test", transport=httpx.MockTransport(answer))
    assert [each.state for each in broken.events(job.id)] == ["running", "done"]
    assert asked == [None, "4", "4", "4"]
    gone = Client("http://test", transport=httpx.MockTransport(lambda _: httpx.Response(200, text="")))
    with pytest.raises(httpx.RemoteProtocolError):
        list(gone.events(job.id))


def test_events_as_the_standard_writes_them() -> None:
    lines = (
        ": comment",
        "data: a",
        "data:b",
        "",
        "id: 7",
        "event: x",
        "data: {}",
        "",
        "retry: 5",
        "",
        "data",
        "",
        "data: cut",
    )
    assert list(read_events(lines)) == [("message", None, "a\nb"), ("x", "7", "{}"), ("message", "7", "")]


def test_the_key(trip: Trip, tmp_path: Path, with_settings: Callable[..., object]) -> None:
    from service.server import running_server

    store = shutil.copytree(trip.store, tmp_path / "store")
    settings = with_settings(store=store, auth={"read_key": "read key 1", "write_key": "write key 1"})
    with running_server(settings) as base:  # type: ignore[arg-type]
        with Client(base, api_key="read key 1") as reader:
            assert reader.count() > 0
            with pytest.raises(ClientError) as error:
                reader.delete(["Fruit"])
            assert error.value.status == 403
        with Client(base, api_key="write key 1") as writer:
            assert writer.delete(["Fruit"]) == 1
        with Client(base) as nobody, pytest.raises(ClientError) as error:
            nobody.info()
        assert error.value.status == 401
