"""A Chromium, and a service whose collections have trees."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from hyperbolic.embedder import Embedder
from service.collections import Collections
from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from ..conftest import INFERENCE, Trip
from ..grove import build_tree, plant

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")  # playwright leaves a running loop in this thread: no test after it could have its own
def browser() -> Iterator["Browser"]:
    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(chromium).exists():
        pytest.skip("no chromium on PATH or at /usr/bin/chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser", server: str) -> Iterator[Callable[..., "Page"]]:
    """Opens the service in a fresh context; at the end no script failed, and nothing was asked of anybody else."""
    contexts, errors = [], []

    def open_at(path: str = "/", base: str = server, **options: Any) -> "Page":
        context = browser.new_context(base_url=base, **{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        # A refused request is logged by the browser too; what the page makes of it is tested where it is meant.
        page.on("console", lambda line: errors.append(line.text) if "Security Policy" in line.text else None)
        page.on("request", lambda request: errors.append(request.url) if _is_foreign(request.url, base) else None)
        page.goto(path)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []


def _is_foreign(url: str, base: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in {"blob", "data"} and parts.netloc != urlsplit(base).netloc


@pytest.fixture(scope="package")
def woods_store(trip: Trip, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn photos with a tree over them, and "grove": 144 points without photos, with a larger one."""
    store = shutil.copytree(trip.store, tmp_path_factory.mktemp("woods") / "store")
    folder = plant(store, "grove", dim=embedder.embedding_dim, c=embedder.c, model_hash=embedder.model_hash)
    build_tree(folder)
    build_tree(store / "collections" / "default", min_size=2)
    return store


@pytest.fixture(scope="package")
def woods(trip: Trip, engine: Engine, woods_store: Path) -> Iterator[str]:
    """A service over that store; the encoder's process is the one there is, which takes a while to start."""
    collections = Collections(woods_store, engine.model.model_hash)
    collections.open_all()
    settings = Settings(checkpoint=trip.checkpoint, store=woods_store, port=0, inference=INFERENCE)
    with closing(collections), running_server(settings, Engine(engine.encoder, collections)) as url:
        yield url


@pytest.fixture
def woods_client(woods: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=woods, timeout=30) as client:
        yield client
