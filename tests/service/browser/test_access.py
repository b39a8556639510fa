"""Anybody can use the page: axe in every state, the keyboard alone, a phone, either scheme of colours."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from .page import OTHER, PHOTO, drop, drop_all, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

# Only what is asked for is handed over: axe tells of every element that it looked at.
AXE = """async () => {
    const { passes, violations } = await axe.run({ resultTypes: ["violations"] });
    const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    const told = ({ id, nodes }) => nodes.map(({ target, failureSummary }) => [id, target, failureSummary]);
    return { passes: passes.length, serious: serious.flatMap(told) };
}"""
TILE = "#hits[aria-busy=false] .tile"


@cache
def axe() -> Any:
    module = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    return module.Axe()


def assert_accessible(page: "Page") -> None:
    """axe finds nothing serious or critical, and it did look."""
    # What is fading in is not looked at before it is there; what goes on for ever (a spinner) is not waited for.
    page.evaluate("""Promise.allSettled(document.getAnimations()
        .filter((one) => one.effect.getTiming().iterations === 1).map((one) => one.finished))""")
    page.evaluate(axe().axe_script)
    found = page.evaluate(AXE)
    assert found["passes"] >= 10
    assert found["serious"] == []


def _results(page: "Page") -> None:
    drop(page)
    page.wait_for_selector(TILE)
    page.wait_for_selector("#path:not([hidden])")


def _several(page: "Page") -> None:
    drop_all(page, [(PHOTO, "one.jpg", "image/jpeg"), (OTHER, "two.jpg", "image/jpeg")])
    page.wait_for_selector(TILE)
    page.wait_for_selector("#path:not([hidden])")


def _zoomed(page: "Page") -> None:
    page.goto(page.url.split("#")[0] + "#item=Fruit&level=1")
    page.wait_for_selector("#zoomed:not([hidden])")
    page.wait_for_selector("#path:not([hidden])")


def _filtered(page: "Page") -> None:
    page.goto(page.url.split("#")[0] + "#item=Fruit&path=Nowhere&key=number&op=least&value=3&max=9")
    page.wait_for_selector("#hits .empty")
    page.click("#filters summary")


def _tree(page: "Page") -> None:
    page.goto(page.url.split("#")[0] + "#tree=")
    page.click("#tree-list [role=group] .row >> nth=0")
    page.wait_for_selector("#node-items[aria-busy=false] .tile")


def _renaming(page: "Page") -> None:
    _tree(page)
    page.click("#rename")


def _map(page: "Page") -> None:
    page.goto(page.url.split("#")[0] + "#disk=")
    page.wait_for_selector("#disk-labels button:not([hidden])")
    page.click("#disk-labels button:not([hidden]) >> nth=0")
    page.wait_for_selector("#map-card:not([hidden])")


def _problem(page: "Page") -> None:
    page.goto(page.url.split("#")[0] + "#item=nothing")
    page.wait_for_selector("#problem:not([hidden])")


def _waiting(page: "Page") -> None:
    page.route("**/search", lambda route: None)
    page.goto(page.url.split("#")[0] + "#item=Fruit")
    page.wait_for_selector("#slow:not([hidden])")


STATES: dict[str, Callable[["Page"], None]] = {
    "start": lambda page: None,
    "results": _results,
    "several": _several,
    "zoomed": _zoomed,
    "filtered": _filtered,
    "tree": _tree,
    "renaming": _renaming,
    "map": _map,
    "problem": _problem,
    "waiting": _waiting,
}
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}


@pytest.mark.parametrize(("scheme", "device"), [("light", DESKTOP), ("dark", PHONE)], ids=["light", "dark"])
def test_axe_finds_nothing_serious(
    open_page: Callable[..., "Page"], woods: str, scheme: str, device: dict[str, Any]
) -> None:
    page = open_page(base=woods, color_scheme=scheme, **device)
    page.wait_for_selector("#samples .tile")
    for prepare in STATES.values():
        prepare(page)
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"]
    page.unroute_all()


def test_axe_finds_nothing_serious_without_a_tree_and_in_the_docs(open_page: Callable[..., "Page"]) -> None:
    page = open_page("/#item=Fruit")
    page.wait_for_selector("#no-tree:not([hidden])")
    assert_accessible(page)
    page.goto(page.url.split("#")[0] + "#disk=")
    page.wait_for_selector("#disk-none:not([hidden])")
    assert_accessible(page)
    page.goto("/docs")
    page.wait_for_selector(".operation")
    assert_accessible(page)
    page.set_viewport_size({"width": 375, "height": 812})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_axe_finds_nothing_serious_where_a_key_is_asked_for(
    open_page: Callable[..., "Page"], engine: Any, with_settings: Callable[..., Any]
) -> None:
    from service.server import running_server

    with running_server(with_settings(auth={"read_key": "open sesame"}), engine) as url:
        page = open_page(base=url)
        page.wait_for_selector("#key-dialog[open]")
        assert_accessible(page)


def test_colours_are_the_systems_until_chosen(open_page: Callable[..., "Page"]) -> None:
    page = open_page(color_scheme="dark")
    page.wait_for_selector("#samples .tile")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")  # light
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.click("#theme")
    assert page.evaluate(ground) == dark
    page.click("#theme")
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == light  # again as the system has it


def test_skip_link_and_the_whole_way_by_keys(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page(base=woods)
    page.wait_for_selector("#samples .tile")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")

    def to(selector: str) -> None:
        for _ in range(80):
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no way to {selector} with Tab")

    to("#samples .tile")
    page.keyboard.press("Enter")
    page.wait_for_selector(TILE)
    page.wait_for_selector("#path:not([hidden])")
    page.evaluate("document.body.focus(), document.getElementById('home').focus()")
    to("#zoom-out")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('zoomed-words').textContent.startsWith('1 step')")
    until(page, "document.getElementById('announce').textContent.includes('nearest at distance')")
    assert page.evaluate("document.activeElement.id") == "zoom-out"  # to be pressed again
    page.evaluate("document.getElementById('home').focus()")
    to("#nav-tree")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tree-list [role=group] [role=treeitem]")
    to("#tree-list [role=treeitem]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    until(page, "new URLSearchParams(location.hash.slice(1)).get('tree') !== ''")
