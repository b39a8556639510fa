"""Where a photo belongs, as the page tells it: the path with its probabilities, and zooming."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .page import PHOTO, as_shown, by_item, drop, percent, post, shown, shown_in_time, text, until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

GROVE = "/v1/collections/grove"
ITEM = "f1/k5/050"
PLACE = "/#item=f1/k5/050&in=grove"
# The path comes after the hits: until then its steps, and what a click on "zoom out" does, are those of before.
PATH_LEVEL = "new URLSearchParams(document.querySelector('#steps a[aria-current]')?.hash.slice(1)).get('level')"


def steps(page: "Page") -> list[list[str]]:
    """Title and probability of each step on show, the most general first."""
    page.wait_for_selector("#path:not([hidden])")
    rows: list[list[str]] = page.eval_on_selector_all(
        "#steps li", "(rows) => rows.map((r) => [...r.children].map((c) => c.textContent.replaceAll('\\u00a0', ' ')))"
    )
    return rows


def as_told(title: str) -> str:
    """A title the service made up, as a heading."""
    return title[0].upper() + title[1:] if title == "everything" or title.startswith("mostly ") else title


def test_path_is_the_apis_from_general_to_specific(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    told = post(woods_client, f"{GROVE}/hierarchy/ancestors", {"query": {"item_id": ITEM}})
    page = open_page(PLACE, base=woods)
    expected = [[as_told(step["title"]), percent(step["probability"])] for step in reversed(told["nodes"])]
    assert len(expected) >= 2
    assert steps(page) == expected
    assert page.locator("#steps a[aria-current]").text_content() == expected[-1][0]
    labels = page.eval_on_selector_all("#labels li b", "(all) => all.map((one) => one.textContent)")
    assert labels == [step["label"][-1] for step in reversed(told["labels"])]
    if told["stopped_at"] is None:
        assert "ends in a smallest group" in text(page, "#stop")
    else:
        assert f"only {percent(told['next']['probability'])} likely" in text(page, "#stop")
    assert f"Specificity {told['specificity']:.2f}" in text(page, "#specificity")
    assert page.is_hidden("#no-tree")


def test_zooming_out_and_in(open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client) -> None:
    path = post(woods_client, f"{GROVE}/hierarchy/ancestors", {"query": {"item_id": ITEM}})["nodes"]
    page = open_page(PLACE, base=woods)
    steps(page)
    near = shown_ids(page)
    for level in range(1, len(path)):
        page.click("#zoom-out")
        until(page, f"new URLSearchParams(location.hash.slice(1)).get('level') === '{level}'")
        body = {"query": {"item_id": ITEM}, "levels": level, "limit": 24}
        zoomed = post(woods_client, f"{GROVE}/hierarchy/zoom", body)
        assert zoomed["node"]["id"] == path[level]["id"]
        until(page, f"document.getElementById('zoomed-words').textContent.startsWith('{level} step')")
        assert text(page, "#results-title") == as_told(zoomed["node"]["title"])
        assert shown_ids(page) == [item["id"] for item in zoomed["items"]]
        branches = page.eval_on_selector_all("#branches a", "(all) => all.map((a) => a.hash)")
        assert branches == [f"#tree={branch['id']}&in=grove" for branch in zoomed["branches"][:12]]
        until(page, f"{PATH_LEVEL} === '{level}'")
        steps(page)
        assert page.locator("#steps a[aria-current]").count() == 1
    assert page.get_attribute("#zoom-out", "aria-disabled") == "true"
    page.click("#zoom-out", force=True)  # the end of the way: nothing happens
    for level in range(len(path) - 2, -1, -1):
        page.click("#zoom-in")
        until(page, f"(new URLSearchParams(location.hash.slice(1)).get('level') ?? '0') === '{level}'")
        until(page, f"({PATH_LEVEL} ?? '0') === '{level}'")
        steps(page)
    assert text(page, "#results-title") == "Nearest neighbours"
    assert shown_ids(page) == near


def shown_ids(page: "Page") -> list[str]:
    page.wait_for_selector("#hits[aria-busy=false] .tile")
    found: list[str] = page.eval_on_selector_all("#hits .tile", "(tiles) => tiles.map((t) => t.dataset.id)")
    return found


def test_a_step_leads_to_its_level(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page(PLACE, base=woods)
    count = len(steps(page))
    page.click("#steps a >> nth=0")
    until(page, f"new URLSearchParams(location.hash.slice(1)).get('level') === '{count - 1}'")
    until(page, "document.getElementById('results-title').textContent === 'Everything'")


@pytest.mark.parametrize(("share", "is_unlike"), [(0.003, True), (0.4, False)])
def test_something_unlike_anything_here_is_told(
    open_page: Callable[..., "Page"], woods: str, share: float, is_unlike: bool
) -> None:
    page = open_page(base=woods)
    page.wait_for_selector("#samples .tile")

    def answer(route: "Route") -> None:
        told: dict[str, Any] = route.fetch().json()
        route.fulfill(status=200, content_type="application/json", body=json.dumps(told | {"in_distribution": share}))

    page.route("**/ancestors", answer)
    drop(page)
    page.wait_for_selector("#path:not([hidden])")
    assert page.is_visible("#unlike") is is_unlike
    if is_unlike:
        assert "< 1 % of the photos" in text(page, "#unlike")


def test_without_a_tree_one_line_says_how_to_get_one(open_page: Callable[..., "Page"], client: httpx.Client) -> None:
    page = open_page("/#item=Fruit")
    assert shown(page) == by_item(client, "Fruit")
    page.wait_for_selector("#no-tree:not([hidden])")
    assert "lhier hierarchy build" in text(page, "#no-tree")
    for hidden in ("#path", "#nav-tree", "#nav-disk", "#zoomed"):
        assert page.is_hidden(hidden)
    assert page.is_visible("#consensus")
    page.goto(page.url.split("#")[0] + "#disk=")
    page.wait_for_selector("#disk-none:not([hidden])")
    page.goto(page.url.split("#")[0] + "#tree=")
    page.wait_for_selector("#tree-none:not([hidden])")
    assert page.is_hidden("#tree-panes")


def test_photos_too_have_a_path_and_are_embedded_once(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    page = open_page(base=woods)
    embedded: list[str] = []
    page.on("request", lambda request: embedded.append(request.url) if "/v1/embeddings" in request.url else None)
    drop(page)
    answer = woods_client.post("/v1/collections/default/hierarchy/ancestors", files={"file": PHOTO})
    told = answer.raise_for_status().json()
    assert [row[1] for row in steps(page)] == [percent(step["probability"]) for step in reversed(told["nodes"])]
    page.select_option("#limit", "12")
    expected = as_shown(woods_client.post("/v1/search", files={"file": PHOTO}, data={"limit": "12"}).json()["hits"])
    assert shown_in_time(page, expected) == expected
    assert len(embedded) == 1
