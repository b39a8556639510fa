"""``/metrics`` and the probes: what they say is what happened."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.encoder import process, selfcheck
from service.engine import Engine
from service.operation.load import Load
from service.operation.metrics import Metrics
from service.operation.quotas import Quotas
from service.operation.recall import probe
from service.operation.upkeep import Upkeep
from service.server import running_server
from service.settings import InferenceSettings, Settings

from .conftest import NUM_ITEMS, Trip, draw, encoded


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, as Prometheus' own parser reads them."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text).get((name, frozenset(labels.items())), 0.0)


def test_what_happened_is_counted(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.self_check, "run", engine.self_check.result)  # its photos would be counted too
    until(lambda: engine.encoder.state().under_way == 0)
    with running_server(settings, engine) as url, httpx.Client(base_url=url, timeout=30) as client:
        photo, limit = encoded(draw(1)), {"limit": "3"}
        for _ in range(3):
            assert client.post("/v1/search", files={"file": photo}, data=limit).status_code == 200
        assert client.post("/v1/search", files={"file": b"text"}).status_code == 415
        for name in ("a", "b/c", "d"):
            client.get(f"/v1/collections/default/items/{name}-is-not-there")
            client.get(f"/v1/nowhere/{name}")
            client.get(f"/nowhere/{name}")
        client.request("PROPFIND", "/v1/info")
        client.post("/v1/search", headers={"Sec-Fetch-Site": "cross-site"}, files={"file": photo})
        until(lambda: value(client.get("/metrics").text, "lhier_recall_probe", collection="default") > 0)
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        text = answer.text

    def requests(method: str, route: str, status: int) -> float:
        name = "lhier_http_request_duration_seconds_count"
        return value(text, name, method=method, route=route, status=str(status))

    assert requests("POST", "/v1/search", 200) == 3
    assert requests("POST", "/v1/search", 415) == 1
    assert requests("GET", "/v1/collections/{collection}/items/{item_id}", 404) == 3
    assert requests("GET", "/v1/unmatched", 404) == 3
    assert requests("GET", "unmatched", 404) == 3
    assert requests("other", "/v1/info", 405) == 1
    assert value(text, "lhier_rejected_total", reason="cross_site") == 1
    assert value(text, "lhier_image_errors_total", code="unsupported_format") == 1
    assert value(text, "lhier_batch_size_sum") == 3
    assert value(text, "lhier_inference_seconds_sum") > 0
    assert value(text, "lhier_decode_seconds_count") == 3
    assert value(text, "lhier_search_seconds_count") == 3
    assert value(text, "lhier_http_requests_in_flight") == 1  # the scrape
    assert value(text, "lhier_queue_size") == 0
    assert value(text, "lhier_worker_up") == 1
    assert value(text, "lhier_worker_restarts_total") == engine.encoder.state().restarts
    assert value(text, "lhier_collection_up", collection="default") == 1
    assert value(text, "lhier_collection_items", collection="default") == NUM_ITEMS
    assert value(text, "lhier_recall_probe", collection="default") == 1
    assert value(text, "lhier_store_bytes") > 10_000
    assert value(text, "lhier_memory_bytes") > 50e6
    model_hash = engine.model.model_hash
    assert any(n == "lhier_build_info" and ("model_hash", model_hash) in labels for n, labels in samples(text))
    assert value(text, "process_open_fds") > 0


def test_clients_cannot_make_series(engine: Engine, settings: Settings) -> None:
    with running_server(settings, engine) as url, httpx.Client(base_url=url) as client:
        for number in range(20):
            client.request("TRACE" if number % 2 else "LOCK", f"/v1/x{number}", headers={"X-Request-ID": f"id{number}"})
            client.get(f"/v1/collections/c{number}")
        # Which the first round of the upkeep, in a thread of its own, adds to, as the first scrape does.
        until(lambda: value(client.get("/metrics").text, "lhier_recall_probe", collection="default") > 0)
        before = len(samples(client.get("/metrics").text))
        for number in range(20, 60):
            client.request("TRACE" if number % 2 else "LOCK", f"/v1/x{number}", headers={"X-Request-ID": f"id{number}"})
            client.get(f"/v1/collections/c{number}")
        assert len(samples(client.get("/metrics").text)) == before


def test_recall_is_that_of_the_index(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = engine.collection()
    rng = np.random.default_rng(0)
    assert probe(collection, rng) == 1
    search = collection.search

    def forgetful(space: np.ndarray, k: int) -> list[object]:
        """Never finds the nearest, as an index that lost it."""
        return search(space, k + 1)[1:]

    monkeypatch.setattr(type(collection), "search", staticmethod(forgetful))
    found = probe(collection, rng)
    # Of the points nearer than the tenth answer, one of ten is missing.
    assert found is not None
    assert found == pytest.approx(0.9, abs=0.005)


def test_an_index_that_lost_an_item_is_seen(engine: Engine, settings: Settings) -> None:
    metrics = Metrics(engine, Load(1, 1, 1), "1")
    upkeep = Upkeep(engine, Quotas(settings.quotas, engine), metrics, 300)
    upkeep.measure()
    assert value(metrics.text().decode(), "lhier_recall_probe", collection="default") == 1
    metrics.items({})
    assert "collection=" not in metrics.text().decode().replace('lhier_collection_up{collection="default"}', "")


def test_probes_follow_the_encoder(trip: Trip, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies is replaced and nothing needs a restart; where none comes back, one does."""
    inference = InferenceSettings(runtime="torch", stuck_s=1.0)
    with (
        closing(Engine.open(trip.checkpoint, trip.store, inference=inference)) as engine,
        running_server(settings, engine) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert client.get("/livez").json()["status"] == "ok"
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["collections"]) == (200, [{"name": "default", "ready": True}])
        assert "stored photo" in ready.json()["detail"]
        monkeypatch.setattr(process, "COMMAND", ("/bin/false",))
        pid = engine.encoder.state().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: value(client.get("/metrics").text, "lhier_worker_up") == 0)
        until(lambda: client.get("/livez").status_code == 503)
        dead = client.get("/healthz")
        assert (dead.status_code, dead.json()["status"]) == (503, "failed")
        assert value(client.get("/metrics").text, "lhier_worker_restarts_total") >= 1
        monkeypatch.setattr(selfcheck, "ANSWER_S", 0.5)
        engine.self_check.run()
        unready = client.get("/readyz")
        assert (unready.status_code, unready.json()["status"]) == (503, "not_ready")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
