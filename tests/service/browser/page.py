"""What the browser tests do to the page, and how they read it."""

import base64
import time
from typing import TYPE_CHECKING, Any

import httpx

from ..conftest import draw, encoded

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_S = 15.0
PHOTO = encoded(draw(500, (160, 120)), "JPEG", quality=90)
OTHER = encoded(draw(501, (120, 160)), "JPEG", quality=90)
DROP = """async (files) => {
    const data = new DataTransfer();
    for (const [base64, name, type] of files) {
        const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
        data.items.add(new File([bytes], name, { type }));
    }
    for (const kind of ["dragenter", "dragover", "drop"]) {
        document.getElementById("main").dispatchEvent(
            new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
}"""


def drop(page: "Page", photo: bytes = PHOTO, name: str = "drawn.jpg", kind: str = "image/jpeg") -> None:
    """Drop one file on the page."""
    drop_all(page, [(photo, name, kind)])


def drop_all(page: "Page", files: list[tuple[bytes, str, str]]) -> None:
    """Drop files on the page: each its bytes, name and type."""
    page.evaluate(DROP, [[base64.b64encode(data).decode(), name, kind] for data, name, kind in files])


def until(page: "Page", condition: str) -> None:
    """Wait for a JavaScript condition. Playwright's own wait_for_function is stopped by the page's CSP (no eval)."""
    deadline = time.monotonic() + PATIENCE_S
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {condition}"
        time.sleep(0.02)


def text(page: "Page", selector: str) -> str:
    """What an element says; its spaces that do not break as plain ones."""
    return (page.text_content(selector) or "").replace("\u00a0", " ").strip()


def shown(page: "Page") -> list[list[str]]:
    """Id and distance of every hit on show, once the photos themselves are there."""
    page.wait_for_selector("#hits[aria-busy=false] .tile")
    until(page, "[...document.querySelectorAll('#hits img')].slice(0, 4).every((i) => i.naturalWidth > 0)")
    found: list[list[str]] = page.eval_on_selector_all(
        "#hits .tile", "(tiles) => tiles.map((t) => [t.dataset.id, t.querySelector('.measure span').textContent])"
    )
    return found


def shown_in_time(page: "Page", expected: list[list[str]]) -> list[list[str]]:
    """What is on show once it is what is expected, or after a while: an answer may take over from an older one."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := shown(page)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def as_shown(hits: list[dict[str, Any]]) -> list[list[str]]:
    """Hits of the API as the page shows them."""
    assert hits
    return [[hit["id"], f"{hit['distance']:.3f}"] for hit in hits]


def by_item(client: httpx.Client, item_id: str, limit: int = 24, **options: Any) -> list[list[str]]:
    """What a search from an item must show."""
    body = {"query": {"item_id": item_id}, "limit": limit, **options}
    return as_shown(post(client, "/v1/search", body)["hits"])


def by_photo(client: httpx.Client, limit: int = 24) -> list[list[str]]:
    """What a search from :data:`PHOTO` must show."""
    answer = client.post("/v1/search", files={"file": PHOTO}, data={"limit": str(limit)})
    return as_shown(answer.raise_for_status().json()["hits"])


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The API's answer."""
    answer: dict[str, Any] = client.post(path, json=body).raise_for_status().json()
    return answer


def percent(share: float) -> str:
    """A probability as the page says it."""
    if 0.99 < share < 1:
        return "> 99 %"
    return "< 1 %" if 0 < share < 0.01 else f"{int(100 * share + 0.5)} %"
