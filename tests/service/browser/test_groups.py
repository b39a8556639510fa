"""The tree in the page: opened and closed, by pointer and by keys, named, and searched within."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.engine import Engine
from service.server import running_server

from .page import by_item, shown, shown_in_time, text, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

NODES = "/v1/collections/default/hierarchy/nodes"
ROW = "#tree-list [role=treeitem]"


def tree_of(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Every node by id, the root first."""
    answer = client.get(NODES, params={"depth": 32}).raise_for_status().json()
    return {node["id"]: node for node in answer["nodes"]}


def children_of(nodes: dict[str, dict[str, Any]], parent: str | None) -> list[str]:
    return [node["id"] for node in nodes.values() if node["parent"] == parent]


def focused(page: "Page") -> str:
    found: str = page.evaluate("document.activeElement.dataset.id ?? document.activeElement.id")
    return found


def test_tree_is_walked_with_the_keyboard(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    nodes = tree_of(woods_client)
    (root,) = children_of(nodes, None)
    first, second, *_ = children_of(nodes, root)
    branch = next(child for child in children_of(nodes, root) if nodes[child]["num_children"])
    page = open_page("/#tree=", base=woods)
    page.wait_for_selector(f"{ROW} {ROW.split()[-1]}")
    row = f"{ROW}[data-id='{{}}']".format
    page.focus(row(root))
    for key, expected in [("ArrowRight", first), ("Home", root), ("ArrowDown", first), ("ArrowLeft", root)]:
        if key == "ArrowLeft" and page.get_attribute(row(first), "aria-expanded") == "true":
            page.keyboard.press(key)  # the first press closes
        page.keyboard.press(key)
        until(page, f"document.activeElement.dataset.id === '{expected}'")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute(row(root), "aria-expanded") == "false"
    assert page.is_hidden(row(first))
    page.keyboard.press("ArrowRight")
    assert page.is_visible(row(second))
    # Open a branch below, by keys alone.
    while focused(page) != branch:
        page.keyboard.press("ArrowDown")
    if page.get_attribute(row(branch), "aria-expanded") == "false":
        page.keyboard.press("ArrowRight")
    inner = children_of(nodes, branch)
    page.wait_for_selector(row(inner[0]))
    assert page.get_attribute(row(inner[0]), "aria-level") == "3"
    assert page.eval_on_selector_all(f"{row(branch)} > ul > li", "(all) => all.map((one) => one.dataset.id)") == inner
    page.keyboard.press("Enter")
    until(page, f"location.hash === '#tree={branch}'")
    page.wait_for_selector("#node-items[aria-busy=false] .tile")
    assert page.get_attribute(row(branch), "aria-selected") == "true"
    assert focused(page) == branch  # where one was
    assert page.locator(f"{ROW}[tabindex='0']").count() == 1
    page.keyboard.press("End")
    assert focused(page) != branch


def test_a_node_shows_what_the_api_tells(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    nodes = tree_of(woods_client)
    deepest = max(nodes.values(), key=lambda node: node["depth"])
    told = woods_client.get(f"{NODES}/{deepest['id']}").json()
    page = open_page(f"/#tree={deepest['id']}", base=woods)
    page.wait_for_selector("#node-items[aria-busy=false] .tile")
    above = page.eval_on_selector_all("#node-above a", "(all) => all.map((a) => a.hash)")
    assert above == [f"#tree={link['id']}" for link in reversed(told["ancestors"])]
    members = woods_client.get(f"{NODES}/{deepest['id']}/items", params={"order": "nearest"}).json()["items"]
    found = page.eval_on_selector_all("#node-items .tile", "(tiles) => tiles.map((t) => t.dataset.id)")
    assert found == [member["id"] for member in members]
    # The way down to it is open.
    assert page.is_visible(f"{ROW}[data-id='{deepest['id']}']")
    until(page, "[...document.querySelectorAll('#node-items img')].every((i) => i.naturalWidth > 0)")


def test_photos_of_a_large_node_come_page_by_page(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page("/#tree=&in=grove", base=woods)
    page.wait_for_selector("#node-items[aria-busy=false] .tile")
    for count in (48, 72):
        page.click("#node-more button")
        until(page, f"document.querySelectorAll('#node-items .tile').length === {count}")
    found = page.eval_on_selector_all("#node-items .tile", "(tiles) => tiles.map((t) => t.dataset.id)")
    assert len(set(found)) == 72


def test_renamed_in_place_with_the_write_key(
    open_page: Callable[..., "Page"],
    engine: Engine,
    woods_store: Any,
    with_settings: Callable[..., Any],
) -> None:
    from contextlib import closing

    from service.collections import Collections

    collections = Collections(woods_store, engine.model.model_hash)
    collections.open_all()
    settings = with_settings(store=woods_store, auth={"read_key": "may look", "write_key": "may touch"})
    with closing(collections), running_server(settings, Engine(engine.encoder, collections)) as url:
        page = open_page("/#tree=", base=url)
        page.fill("#key", "may look")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"{ROW} {ROW.split()[-1]}")
        page.click("#tree-list [role=group] .row >> nth=0")
        page.wait_for_selector("#node-items[aria-busy=false] .tile")
        chosen = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('tree')")
        name = "Über <b>things</b>, " + "long " * 20
        page.click("#rename")
        assert focused(page) == "name"
        page.fill("#name", name)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog[open]")
        page.click("#key-cancel")  # rather not
        assert page.is_visible("#rename-form")
        page.keyboard.press("Enter") if focused(page) == "name" else page.click("#rename-form .primary")
        for key in ("wrong one", "may touch"):
            page.wait_for_selector("#key-dialog[open]")
            page.fill("#key", key)
            page.keyboard.press("Enter")
            if key == "wrong one":
                until(page, "document.getElementById('key-hint').textContent.includes('not the right one')")
        until(page, "document.getElementById('node-title').textContent.startsWith('Über')")
        assert text(page, "#node-title") == name.strip()
        assert text(page, f"{ROW}[data-id='{chosen}'] > .row b") == name.strip()
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        assert page.evaluate("[...Object.keys(localStorage)].filter((key) => key.includes('key'))") == []
        with httpx.Client(base_url=url, headers={"X-API-Key": "may look"}) as reader:
            assert reader.get(f"{NODES}/{chosen}").json()["name"] == name.strip()
            page.click("#rename")
            page.fill("#name", "")
            page.keyboard.press("Enter")
            until(page, "document.getElementById('announce').textContent.startsWith('Its name was taken away')")
            assert reader.get(f"{NODES}/{chosen}").json()["name"] is None


def test_a_node_that_is_gone_is_told(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page("/#tree=nothing", base=woods)
    page.wait_for_selector("#problem:not([hidden])")
    assert "This group is not there any more." in text(page, "#problem")
    page.click("#nav-tree")
    page.wait_for_selector("#node-items[aria-busy=false] .tile")
    assert page.is_hidden("#problem")


def test_searching_within_a_node(open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client) -> None:
    nodes = tree_of(woods_client)
    (root,) = children_of(nodes, None)
    chosen = children_of(nodes, root)[0]
    page = open_page(f"/#tree={chosen}", base=woods)
    page.wait_for_selector("#node-items[aria-busy=false] .tile")
    page.click("#node-within")
    page.wait_for_selector("#start-chips .chip")
    page.click("#samples .tile >> nth=0")
    page.wait_for_selector("#hits[aria-busy=false]")
    item = httpx.QueryParams(page.evaluate("location.hash.slice(1)"))["item"]
    expected = by_item(woods_client, item, filter={"must": [{"node": chosen}]})
    assert shown_in_time(page, expected) == expected
    page.click("#chips .cross")
    everything = by_item(woods_client, item)
    assert shown_in_time(page, everything) == everything
    page.goto(page.url.split("#")[0] + f"#node={chosen}")
    until(page, "document.getElementById('query-kind').textContent === 'The middle of a group'")
    assert shown(page)


def test_on_a_phone_the_tree_gives_way_to_the_node(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page("/#tree=", base=woods, viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True)
    page.tap("#tree-list [role=group] .row >> nth=0")
    page.wait_for_selector("#node-items[aria-busy=false] .tile")
    assert page.is_hidden("#tree-pane")
    assert focused(page) == "node-title"
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.tap("#node-back")
    page.wait_for_selector("#tree-pane")
    assert page.is_hidden("#node")
