"""Searching in a real Chromium: what a person sees is what the API answers."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ..conftest import AWKWARD
from .page import OTHER, PHOTO, as_shown, by_item, by_photo, drop, drop_all, post, shown, shown_in_time, text, until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

PASTE = """async ([base64, type]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "pasted.jpg", { type }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


def test_drop_click_and_back(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page()
    page.wait_for_selector("#samples .tile")
    drop(page)
    expected = by_photo(client)
    assert shown(page) == expected
    assert page.text_content("#query-title") == "drawn.jpg"
    until(page, "document.querySelector('#query-frame img')?.naturalWidth === 160")
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
        page.click("text=Choose photos")
    (tmp_path / "picked.jpg").write_bytes(PHOTO)
    assert chooser.value.is_multiple()
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
    until(page, "document.querySelector('#query-frame img')?.naturalWidth > 0")
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
    page = open_page(viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.wait_for_selector("#start [data-camera]")  # visible, that is: hidden where there is a mouse
    drop(page)
    assert shown(page) == by_photo(client)
    page.tap("#hits .tile >> nth=1")
    until(page, "location.hash.startsWith('#item=')")
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


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


TOGETHER = [(PHOTO, "one.jpg", "image/jpeg"), (OTHER, "two.jpg", "image/jpeg")]


def middle(client: httpx.Client) -> dict[str, Any]:
    """The API about both photos."""
    files = [("file", PHOTO), ("file", OTHER)]
    answer = client.post("/v1/collections/default/hierarchy/common-ancestor", files=files)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_several_photos_are_searched_from_together(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    page = open_page(base=woods)
    drop_all(page, TOGETHER)
    common = middle(woods_client)
    near = post(woods_client, "/v1/search", {"query": {"embedding": common["centre"]["embedding"]}, "limit": 24})
    assert shown(page) == as_shown(near["hits"])
    assert text(page, "#query-title") == "2 photos"
    assert page.locator("#query-frame img").count() == 2
    page.wait_for_selector("#path:not([hidden])")
    assert text(page, "#path-title") == "What they have in common"
    assert page.get_attribute("#common a", "href") == f"#tree={common['node']['id']}"
    page.reload()
    until(page, "document.getElementById('problem').textContent.includes('drop it once more')")


def test_a_photo_is_added_to_another_and_their_middle_needs_no_tree(
    open_page: Callable[..., "Page"], client: httpx.Client, woods_client: httpx.Client, tmp_path: Path
) -> None:
    page = open_page()
    drop(page)
    assert shown(page) == by_photo(client)
    (tmp_path / "two.jpg").write_bytes(OTHER)
    with page.expect_file_chooser() as chooser:
        page.click("#add")
    chooser.value.set_files(tmp_path / "two.jpg")
    until(page, "location.hash === '#photo=1.2'")
    centre = middle(woods_client)["centre"]["embedding"]
    expected = as_shown(post(client, "/v1/search", {"query": {"embedding": centre}, "limit": 24})["hits"])
    assert shown_in_time(page, expected) == expected


def test_one_bad_photo_of_several_is_named(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    drop_all(page, [TOGETHER[0], (PHOTO[: len(PHOTO) // 2], "torn.jpg", "image/jpeg")])
    until(page, "document.getElementById('problem').textContent.includes('orn.jpg')")
    assert "cannot be used" in text(page, "#problem")


def test_pages_put_together_are_one_search(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    item = "f0/k0/000"
    whole = post(woods_client, "/v1/collections/grove/search", {"query": {"item_id": item}, "limit": 36})["hits"]
    page = open_page(f"/#item={item}&limit=12&in=grove", base=woods)
    page.wait_for_selector("#hits[aria-busy=false] .tile")
    for count in (24, 36):
        page.click("#more")
        until(page, f"document.querySelectorAll('#hits .tile').length === {count}")
        assert page.evaluate("document.activeElement.dataset.id") == whole[count - 12]["id"]
    found = page.eval_on_selector_all("#hits .tile", "(tiles) => tiles.map((t) => t.dataset.id)")
    assert found == [hit["id"] for hit in whole]
    assert (
        page.get_attribute("#hits .tile >> nth=0", "href")
        == f"#item={whole[0]['id'].replace('/', '%2F')}&limit=12&in=grove"
    )
    assert text(page, "#announce") == "12 more neighbours, 36 in all"


@pytest.mark.parametrize(
    ("fill", "options"),
    [
        ({"path": "Animal/Kind-1"}, {"filter": {"must": [{"path": "Animal/Kind-1"}]}}),
        ({"key": "number", "op": "least", "value": "15"},
         {"filter": {"must": [{"key": "number", "range": {"gte": 15}}]}}),
        ({"key": "number", "op": "is", "value": "9"}, {"filter": {"must": [{"key": "number", "match": 9}]}}),
        ({"key": "number", "op": "not", "value": "9"}, {"filter": {"must_not": [{"key": "number", "match": 9}]}}),
        ({"key": "number", "op": "exists"}, {"filter": {"must": [{"key": "number", "exists": True}]}}),
        ({"path": "Animal", "key": "number", "op": "most", "value": "12.5"},
         {"filter": {"must": [{"path": "Animal"}, {"key": "number", "range": {"lte": 12.5}}]}}),
    ],
)  # fmt: skip
def test_filters_are_the_apis(
    open_page: Callable[..., "Page"], client: httpx.Client, fill: dict[str, str], options: dict[str, Any]
) -> None:
    page = open_page(f"/#{httpx.QueryParams({'item': 'Fruit'})}")
    shown(page)
    page.click("#filters summary")
    for name, value in fill.items():
        if name == "op":
            page.select_option("#filter-op", value)
        else:
            page.fill(f"#filter-{name}", value)
    page.click("#filter-form .primary")
    expected = by_item(client, "Fruit", **options)
    assert shown_in_time(page, expected) == expected
    count = page.locator("#chips .chip").count()
    assert count == len({"path", "key"} & set(fill))
    page.click("#chips .cross >> nth=0")
    until(page, f"document.querySelectorAll('#chips .chip').length === {count - 1}")


def test_distance_and_nothing_found(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    everything = by_item(client, "Fruit")
    most = (float(everything[4][1]) + float(everything[5][1])) / 2
    page = open_page(f"/#{httpx.QueryParams({'item': 'Fruit', 'max': str(most)})}")
    assert shown(page) == everything[:5]
    assert page.is_hidden("#more")
    page.click("#filters summary")
    page.fill("#filter-path", "No such label")
    page.click("#filter-form .primary")
    page.wait_for_selector("#hits .empty")
    assert text(page, "#announce") == "0 neighbours"
    page.click("#hits .empty button")
    assert shown_in_time(page, everything) == everything


def test_collections_are_switched(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page(base=woods)
    page.wait_for_selector("#samples .tile")
    page.select_option("#collection", "grove")
    until(page, "location.hash === '#in=grove'")
    until(page, "document.querySelector('#samples .tile')?.dataset.id.startsWith('f')")
    assert "144 photos" in text(page, "#footer")
    page.click("#samples .tile >> nth=0")
    until(page, "document.querySelectorAll('#hits .tile').length === 24")
    assert page.locator("#hits .photo.missing").count() == 24  # points without photos
    page.reload()
    until(page, "document.getElementById('collection').value === 'grove'")


def test_a_slow_search_is_told_and_can_be_cancelled(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page()
    page.wait_for_selector("#samples .tile")
    held: list[Route] = []
    page.route("**/search", lambda route: held.append(route))  # noqa: PLW0108 - playwright sets attributes on it
    page.click("#samples .tile >> nth=0")
    page.wait_for_selector("#slow:not([hidden])")
    assert page.get_attribute("#hits", "aria-busy") == "true"
    page.click("#cancel")
    until(page, "document.getElementById('problem').textContent.includes('cancelled')")
    assert page.is_hidden("#slow")
    assert len(held) == 1
    page.unroute("**/search")
    page.click("#problem button >> text=Try again")
    item = httpx.QueryParams(page.evaluate("location.hash.slice(1)"))["item"]
    assert shown(page) == by_item(client, item)


def test_a_page_of_a_collection_that_has_changed_is_searched_anew(
    open_page: Callable[..., "Page"], client: httpx.Client
) -> None:
    page = open_page("/#item=Fruit&limit=12")
    expected = by_item(client, "Fruit", 12)
    assert shown(page) == expected
    problem = {"status": 410, "code": "stale_cursor", "detail": "the collection has changed"}
    page.route("**/search", lambda route: route.fulfill(
        status=410, content_type="application/problem+json", body=json.dumps(problem)))  # fmt: skip
    page.click("#more")
    page.wait_for_selector("#problem:not([hidden])")
    assert len(shown(page)) == 12
    page.unroute("**/search")
    page.click("#problem button >> text=Try again")
    page.wait_for_selector("#problem", state="hidden")
    assert shown_in_time(page, expected) == expected
    page.click("#more")
    until(page, "document.querySelectorAll('#hits .tile').length === 23")  # all but the item itself


def test_problems_of_the_service_are_told_as_it_tells_them(
    open_page: Callable[..., "Page"], client: httpx.Client
) -> None:
    page = open_page()
    page.wait_for_selector("#samples .tile")
    problem = {"status": 503, "code": "encoder_unavailable", "detail": "the encoder <b>starts</b>", "request_id": "r-1"}
    page.route("**/search", lambda route: route.fulfill(
        status=503, content_type="application/problem+json", body=json.dumps(problem)))  # fmt: skip
    page.click("#samples .tile >> nth=0")
    page.wait_for_selector("#problem:not([hidden])")
    assert "The encoder <b>starts</b> (request r-1)" in text(page, "#problem")
    page.unroute("**/search")
    page.click("#problem button >> text=Try again")
    assert shown(page)
    assert page.is_hidden("#problem")
