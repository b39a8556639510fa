"""The page in a real Chromium: what a person sees is what the API answers."""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .conftest import AWKWARD, draw, encoded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

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
PHOTO = encoded(draw(500, (160, 120)), "JPEG", quality=90)
DROP = """async ([base64, name, type]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        document.getElementById("main").dispatchEvent(
            new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
}"""
PASTE = """async ([base64, type]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "pasted.jpg", { type }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
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
    """Opens the service in a fresh context; at the end no script error may have happened."""
    contexts, errors = [], []

    def open_at(path: str = "/", base: str = server, **options: Any) -> "Page":
        context = browser.new_context(base_url=base, **{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        # A refused request is logged by the browser too; what the page makes of it is tested where it is meant.
        page.on("console", lambda line: errors.append(line.text) if "Security Policy" in line.text else None)
        page.goto(path)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []


def drop(page: "Page", photo: bytes = PHOTO, name: str = "drawn.jpg", kind: str = "image/jpeg") -> None:
    page.evaluate(DROP, [base64.b64encode(photo).decode(), name, kind])


def until(page: "Page", condition: str) -> None:
    """Wait for a JavaScript condition. Playwright's own wait_for_function is stopped by the page's CSP (no eval)."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"not within 10 s: {condition}"
        time.sleep(0.02)


def shown(page: "Page") -> list[tuple[str, str]]:
    """Id and distance of every hit on show, once the photos themselves are there."""
    page.wait_for_selector("#hits[aria-busy=false] .tile")
    until(page, "[...document.querySelectorAll('#hits img')].slice(0, 4).every((i) => i.naturalWidth > 0)")
    return page.eval_on_selector_all(
        "#hits .tile", "(tiles) => tiles.map((t) => [t.dataset.id, t.querySelector('.measure span').textContent])"
    )


def shown_in_time(page: "Page", expected: list[list[str]]) -> list[Any]:
    """What is on show once it is what is expected, or after 10 s: an answer may take over from an older one."""
    deadline = time.monotonic() + 10
    while (found := shown(page)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def as_shown(answer: dict[str, Any]) -> list[list[str]]:
    assert answer["hits"]
    return [[hit["id"], f"{hit['distance']:.3f}"] for hit in answer["hits"]]


def by_item(client: httpx.Client, item_id: str, limit: int = 24) -> list[list[str]]:
    return as_shown(client.post("/v1/search", json={"query": {"item_id": item_id}, "limit": limit}).json())


def by_photo(client: httpx.Client, limit: int = 24) -> list[list[str]]:
    return as_shown(client.post("/v1/search", files={"file": PHOTO}, data={"limit": str(limit)}).json())


def test_drop_click_and_back(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page()
    page.wait_for_selector("#samples .tile")
    drop(page)
    expected = by_photo(client)
    assert shown(page) == expected
    assert page.text_content("#query-title") == "drawn.jpg"
    assert page.eval_on_selector("#query-frame img", "(i) => i.naturalWidth") == 160
    assert page.text_content("#announce") == f"{len(expected)} neighbours, nearest at distance {expected[0][1]}"

    first = expected[0][0]
    page.click("#hits .tile >> nth=0")
    until(page, "location.hash.startsWith('#item=')")
    assert shown(page) == by_item(client, first)
    assert httpx.QueryParams(page.evaluate("location.hash.slice(1)"))["item"] == first

    page.go_back()
    until(page, "location.hash.startsWith('#photo=')")
    assert shown(page) == expected
    page.go_back()
    page.wait_for_selector("#start:not([hidden])")


def test_file_input_and_paste(open_page: Callable[..., "Page"], client: httpx.Client, tmp_path: Path) -> None:
    page = open_page()
    with page.expect_file_chooser() as chooser:
        page.click("text=Choose a photo")
    (tmp_path / "picked.jpg").write_bytes(PHOTO)
    chooser.value.set_files(tmp_path / "picked.jpg")
    assert shown(page) == by_photo(client)
    assert page.text_content("#query-title") == "picked.jpg"

    page.click("#home")
    page.wait_for_selector("#start:not([hidden])")
    page.evaluate(PASTE, [base64.b64encode(PHOTO).decode(), "image/jpeg"])
    until(page, "document.getElementById('query-title').textContent === 'pasted.jpg'")
    assert shown(page) == by_photo(client)


@pytest.mark.parametrize("item_id", AWKWARD)
def test_link_to_any_item(open_page: Callable[..., "Page"], client: httpx.Client, item_id: str) -> None:
    page = open_page(f"/#{httpx.QueryParams({'item': item_id, 'limit': '12'})}")
    assert shown(page) == by_item(client, item_id, 12)
    assert page.eval_on_selector("#query-frame img", "(i) => i.naturalWidth") > 0
    assert page.input_value("#limit") == "12"


def test_limit_selector(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page()
    drop(page)
    shown(page)
    page.select_option("#limit", "12")
    until(page, "document.querySelectorAll('#hits .tile').length === 12")
    assert shown(page) == by_photo(client, 12)


def test_keyboard_alone(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page()
    page.wait_for_selector("#samples .tile")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#samples .tile')"):
            break
    chosen = page.evaluate("document.activeElement.dataset.id")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("Enter")
    assert shown(page) == by_item(client, chosen)
    assert page.evaluate("document.activeElement.id") == "results-title"
    while not page.evaluate("document.activeElement.matches('#hits .tile')"):
        page.keyboard.press("Tab")
    following = page.evaluate("document.activeElement.dataset.id")
    page.keyboard.press("Space")
    until(page, f"new URLSearchParams(location.hash.slice(1)).get('item') === {json.dumps(following)}")
    expected = by_item(client, following)
    assert shown_in_time(page, expected) == expected


def test_a_poison_photo_is_explained(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page()
    drop(page, PHOTO[: len(PHOTO) // 2], "torn.jpg")
    page.wait_for_selector("#problem:not([hidden])")
    assert "cannot be used" in (page.text_content("#problem") or "")
    assert "cannot be decoded" in (page.text_content("#problem") or "")
    drop(page, b"hello", "letter.txt", "text/plain")
    until(page, "document.getElementById('problem').textContent.includes('letter.txt is not an image')")
    drop(page)  # and the page goes on working
    assert shown(page) == by_photo(client)
    assert page.is_hidden("#problem")


def test_phone(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.wait_for_selector("#start [data-camera]")  # visible, that is: hidden where there is a mouse
    drop(page)
    assert shown(page) == by_photo(client)
    page.tap("#hits .tile >> nth=1")
    until(page, "location.hash.startsWith('#item=')")
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_asks_for_the_key_once(
    open_page: Callable[..., "Page"], engine: Any, with_settings: Callable[..., Any], client: httpx.Client
) -> None:
    from service.server import running_server

    with running_server(with_settings(auth={"read_key": "open sesame"}), engine) as url:
        page = open_page(base=url)
        page.fill("#key", "wrong guess")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('key-hint').textContent.includes('not the right one')")
        page.fill("#key", "open sesame")
        page.keyboard.press("Enter")
        until(page, "[...document.querySelectorAll('#samples img')].some((i) => i.naturalWidth > 0)")
        drop(page)
        assert shown(page) == by_photo(client)
        page.reload()  # the photo is gone with the page, the key is not
        until(page, "document.getElementById('problem').textContent.includes('drop it once more')")
        assert not page.evaluate("document.getElementById('key-dialog').open")


def test_documentation_page(open_page: Callable[..., "Page"]) -> None:
    page = open_page("/docs")
    page.wait_for_selector("code:text-is('/v1/collections/{collection}/search')")
    assert "max_distance" in (page.text_content("#docs") or "")
