"""Metrics for Prometheus: one registry per application, so that several may run in one process."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from service.encoder.supervisor import BatchSeen
from service.engine import Engine
from service.jobs.runner import Jobs
from service.jobs.store import JobsUnavailableError
from service.operation.load import Load
from service.problems import IMAGE_STATUS

MEDIA_TYPE = CONTENT_TYPE_LATEST
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH = (1, 2, 4, 8, 16, 32, 64)
INFERENCE = "inference"
REJECTIONS = frozenset({401, 403, 408, 413, 429, 503, 504, 507})
"""Statuses of requests that were turned away, not answered."""


class Metrics:
    """What this application did, and how its engine stands, in Prometheus' text format by :meth:`text`."""

    def __init__(self, engine: Engine, load: Load, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        histogram, gauge = partial(Histogram, registry=registry), partial(Gauge, registry=registry)
        self._requests = histogram(
            "lhier_http_request_duration_seconds", "Time to the end of the answer",
            ["method", "route", "status"], buckets=REQUEST_S,
        )  # fmt: skip
        self.in_flight = gauge("lhier_http_requests_in_flight", "Requests that are being answered, streams included")
        self._rejected = Counter(
            "lhier_rejected", "Requests turned away, by problem code", ["reason"], registry=registry
        )
        self._image_errors = Counter(
            "lhier_image_errors", "Photos refused, by problem code", ["code"], registry=registry
        )
        self._batches = histogram("lhier_batch_size", "Photos that went through the encoder together", buckets=BATCH)
        self._steps = {
            INFERENCE: histogram("lhier_inference_seconds", "One batch through the encoder", buckets=STEP_S),
            "decode": histogram("lhier_decode_seconds", "Decoding one photo", buckets=STEP_S),
            "search": histogram("lhier_search_seconds", "One search in the index", buckets=STEP_S),
        }
        self.recall = gauge("lhier_recall_probe", "Share of true neighbours that sampled searches find", ["collection"])
        self.store_bytes = gauge("lhier_store_bytes", "Size of the store on the disk")
        self.store_quota_bytes = gauge("lhier_store_quota_bytes", "Size that the store may have; 0 without a bound")
        self.free_disk_bytes = gauge("lhier_free_disk_bytes", "Space left on the disk of the store")
        self.memory_bytes = gauge("lhier_memory_bytes", "Resident memory of the service and its encoder together")
        self._items = gauge("lhier_collection_items", "Items of a collection", ["collection"])
        gauge("lhier_queue_size", "Requests that are taken and not yet answered, without streams").set_function(
            lambda: load.present
        )
        gauge("lhier_shedding", "1 while requests are refused because more than can be answered come").set_function(
            lambda: load.shedding
        )
        build = gauge("lhier_build_info", "1, with what runs here as labels", ["version", "model_hash"])
        build.labels(version, engine.model.model_hash).set(1)
        for code in IMAGE_STATUS:
            self._image_errors.labels(code)
        registry.register(_EngineCollector(engine))
        ProcessCollector(registry=registry)

    def watch_jobs(self, jobs: Jobs) -> None:
        """Tell how many jobs there are in each state, too."""
        self._registry.register(_JobsCollector(jobs))

    def text(self) -> bytes:
        """Everything, as ``/metrics`` answers it."""
        return generate_latest(self._registry)

    def request(self, method: str, route: str, status: int, seconds: float, problem: str | None) -> None:
        """A request ended; ``route`` is its template, ``problem`` the code of what it was told instead of an answer."""
        self._requests.labels(method, route, str(status)).observe(seconds)
        if problem is not None and status in REJECTIONS and problem not in IMAGE_STATUS:
            self._rejected.labels(problem).inc()

    def image_error(self, code: str) -> None:
        """A photo was refused."""
        self._image_errors.labels(code).inc()

    def step(self, name: str, seconds: float) -> None:
        """A step of a request took ``seconds``; "decode" (one photo) and "search" (one in the index) are kept."""
        if name in self._steps:
            self._steps[name].observe(seconds)

    def items(self, counts: dict[str, int]) -> None:
        """How many items the collections hold; those that are gone are forgotten, in the recall as well."""
        for name, count in counts.items():
            self._items.labels(name).set(count)
        for gauge in (self._items, self.recall):
            for sample in [sample for family in gauge.collect() for sample in family.samples]:
                if sample.labels["collection"] not in counts:
                    gauge.remove(sample.labels["collection"])

    def batch(self, batch: BatchSeen) -> None:
        """Photos went through the encoder together."""
        self._batches.observe(batch.size)
        self._steps[INFERENCE].observe(batch.seconds)


class _EngineCollector(Collector):
    """Asks the engine how it stands when somebody looks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        state = self._engine.encoder.state()
        yield GaugeMetricFamily("lhier_worker_up", "1 while the encoder's worker is alive", state.status == "alive")
        yield CounterMetricFamily("lhier_worker_restarts", "How often the worker was replaced", value=state.restarts)
        waiting = GaugeMetricFamily("lhier_photos_waiting", "Photos that wait for the encoder", labels=["for"])
        waiting.add_metric(["requests"], state.waiting_urgent)
        waiting.add_metric(["jobs"], state.waiting_patient)
        yield waiting
        up = GaugeMetricFamily("lhier_collection_up", "1 while a collection can be used", labels=["collection"])
        for each in self._engine.collections.states():
            up.add_metric([each.name], each.fault is None)
        yield up


class _JobsCollector(Collector):
    """Asks the journal of jobs when somebody looks; nothing is told while there is none."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("lhier_jobs", "Jobs that are kept, by state", labels=["state"])
        with suppress(JobsUnavailableError):
            for state, count in self._jobs.store.counts().items():
                family.add_metric([state], count)
        yield family
