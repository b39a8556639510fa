"""The map: its geometry against known values, and what a person does to it."""

import math
import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import mpmath
import pytest

from .page import PATIENCE_S, text, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LABEL = "#disk-labels button:not([hidden])"
PROJECTION = "/v1/collections/{}/hierarchy/projection"


def ask(page: "Page", expression: str, *given: Any) -> Any:
    """What an expression of the module's functions comes to."""
    return page.evaluate(
        f"""async (given) => {{
            const g = await import("/web/disk_geometry.js");
            const lorentz = await import("/web/lorentz.js");
            return ({expression})(...given);
        }}""",
        list(given),
    )


def exact_distance(z: list[float], w: list[float]) -> float:
    """arcosh(1 + 2 |z - w|² / ((1 - |z|²)(1 - |w|²))) at 50 digits."""
    with mpmath.workdps(50):
        a, b = mpmath.mpc(*z), mpmath.mpc(*w)
        return float(mpmath.acosh(1 + 2 * abs(a - b) ** 2 / ((1 - abs(a) ** 2) * (1 - abs(b) ** 2))))


def some_points(count: int, seed: int, reach: float = 4.0) -> list[list[float]]:
    """Points of the disk up to a hyperbolic distance from the centre."""
    rng = random.Random(seed)
    polar = [(math.tanh(rng.uniform(0, reach) / 2), rng.uniform(0, 2 * math.pi)) for _ in range(count)]
    return [[radius * math.cos(angle), radius * math.sin(angle)] for radius, angle in polar]


def test_distances_and_isometries(open_page: Callable[..., "Page"]) -> None:
    page = open_page("/docs")
    zs, ws = some_points(200, 1), some_points(200, 2)
    pairs = list(zip(zs, ws, strict=True))
    expected = [exact_distance(z, w) for z, w in pairs]
    found = ask(page, "(pairs) => pairs.map(([z, w]) => g.distance(z, w))", pairs)
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-11)
    # A long drag along a path, a hundred translations one after the other; and its inverse.
    moved = ask(page, """(pairs, steps) => {
        const drag = steps.reduce((all, [from, to]) => g.compose(g.translation(from, to), all), g.IDENTITY);
        const back = g.inverse(drag);
        const points = pairs.map((pair) => pair.map((z) => g.apply(drag, z)));
        return { points, home: points.map((pair) => pair.map((z) => g.apply(back, z))) };
    }""", pairs, list(pairwise(some_points(101, 3, 1.5))))  # fmt: skip
    kept = [exact_distance(z, w) for z, w in moved["points"]]
    assert max(abs(one - other) for one, other in zip(kept, expected, strict=True)) <= 1e-9
    apart = [
        exact_distance(z, home)
        for pair, homes in zip(pairs, moved["home"], strict=True)
        for z, home in zip(pair, homes, strict=True)
    ]
    assert max(apart) <= 1e-9


def test_translation_goes_along_the_geodesic(open_page: Callable[..., "Page"]) -> None:
    page = open_page("/docs")
    froms, tos = some_points(50, 5, 2.0), some_points(50, 6, 2.0)
    images = ask(
        page, "(pairs) => pairs.map(([z, w]) => g.apply(g.translation(z, w), z))", list(zip(froms, tos, strict=True))
    )
    assert max(exact_distance(image, to) for image, to in zip(images, tos, strict=True)) <= 1e-9
    # tanh(1/2) -> the centre takes the centre to -tanh(1/2), by hand: m(z) = (z - a) / (1 - a z).
    a = math.tanh(0.5)
    assert ask(page, "(a) => g.apply(g.translation([a, 0], [0, 0]), [0, 0])", a) == pytest.approx([-a, 0], abs=1e-12)
    halves = ask(page, "(pairs) => pairs.map(([z, w]) => g.between(z, w, 0.25))", list(zip(froms, tos, strict=True)))
    for z, w, half in zip(froms, tos, halves, strict=True):
        assert exact_distance(z, half) == pytest.approx(exact_distance(z, w) / 4, abs=1e-9)
        assert exact_distance(half, w) == pytest.approx(3 * exact_distance(z, w) / 4, abs=1e-9)
    xs, ys = zip(*froms, strict=True)
    at_once = ask(page, """(xs, ys, to) => {
        const [x, y] = [new Float64Array(xs.length), new Float64Array(xs.length)];
        g.applyAll(g.translation([0.3, -0.2], to), Float64Array.from(xs), Float64Array.from(ys), x, y);
        return [...x].map((value, i) => [value, y[i]]);
    }""", xs, ys, tos[0])  # fmt: skip
    singly = ask(page, "(zs, to) => zs.map((z) => g.apply(g.translation([0.3, -0.2], to), z))", froms, tos[0])
    assert [value for point in at_once for value in point] == pytest.approx(
        [value for point in singly for value in point], abs=1e-12
    )


def test_edges_are_geodesics(open_page: Callable[..., "Page"]) -> None:
    page = open_page("/docs")
    pairs = list(zip(some_points(60, 7), some_points(60, 8), strict=True))
    arcs = ask(page, "(pairs) => pairs.map(([z, w]) => g.geodesic(z, w))", pairs)
    assert sum(arc is not None for arc in arcs) > 50
    for (z, w), arc in zip(pairs, arcs, strict=True):
        if arc is None:
            assert abs(z[0] * w[1] - z[1] * w[0]) < 1e-3  # on a diameter, all but
            continue
        # It meets the unit circle at right angles, goes through both ends, and its middle is as far from both.
        assert arc["x"] ** 2 + arc["y"] ** 2 == pytest.approx(1 + arc["radius"] ** 2, rel=1e-9)
        turn = (arc["to"] - arc["from"]) % (2 * math.pi)
        if arc["anticlockwise"]:
            turn -= 2 * math.pi
        assert abs(turn) <= math.pi
        at = [
            [arc["x"] + arc["radius"] * math.cos(angle), arc["y"] + arc["radius"] * math.sin(angle)]
            for angle in (arc["from"], arc["from"] + turn / 2, arc["to"])
        ]
        assert math.dist(at[0], z) < 1e-7
        assert math.dist(at[2], w) < 1e-7
        assert exact_distance(z, at[1]) + exact_distance(at[1], w) == pytest.approx(exact_distance(z, w), abs=1e-6)


def test_centroid_without_a_tree(open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client) -> None:
    page = open_page("/docs", base=woods)
    c = woods_client.get("/v1/info").json()["c"]
    queries = [{"embedding": [0.1 * i, -0.2, *[0.05 * i] * 14]} for i in range(1, 4)]
    body = {"queries": queries}
    told = woods_client.post("/v1/collections/default/hierarchy/common-ancestor", json=body).json()["centre"][
        "embedding"
    ]
    assert ask(page, "(x, c) => lorentz.centroid(x, c)", [q["embedding"] for q in queries], c) == pytest.approx(
        told, abs=1e-6
    )


def open_map(open_page: Callable[..., "Page"], woods: str, place: str = "/#disk=", **options: Any) -> "Page":
    page = open_page(place, base=woods, **options)
    page.wait_for_selector(LABEL)
    page.wait_for_load_state("networkidle")  # the photos
    return page


def labels(page: "Page") -> dict[str, list[float]]:
    """Where each label on show is: left, top, right, bottom."""
    boxes: dict[str, list[float]] = page.eval_on_selector_all(LABEL, """(all) => Object.fromEntries(all.map((one) => {
        const { left, top, right, bottom } = one.getBoundingClientRect();
        return [one.textContent + one.getAttribute("aria-label"), [left, top, right, bottom]];
    }))""")  # fmt: skip
    return boxes


def ink(page: "Page") -> str:
    """The picture on the canvas."""
    picture: str = page.evaluate("document.getElementById('canvas').toDataURL()")
    return picture


def settled(page: "Page") -> str:
    """The picture once it has not changed for a second: photos come late, and so does the first frame of a motion."""
    before, same = ink(page), 0
    for _ in range(200):
        page.wait_for_timeout(100)
        same = same + 1 if (now := ink(page)) == before else 0
        if same == 10:
            return now
        before = now
    raise AssertionError("the map never came to rest")


def test_map_says_what_it_shows_and_labels_do_not_overlap(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    page = open_map(open_page, woods, "/#disk=&in=grove")
    told = woods_client.get(PROJECTION.format("grove"), params={"nodes": 300, "items": 1200}).json()
    facts = text(page, "#disk-facts")
    assert facts.startswith(f"{told['of_nodes']} groups and {told['of_items']} photos")
    settled(page)
    boxes = list(labels(page).values())
    assert len(boxes) >= 3
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


def test_map_moves_under_the_pointer_the_wheel_and_the_keys(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_map(open_page, woods)
    start = settled(page)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    pictures = [start]

    def differs() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while ink(page) == pictures[-1]:
            assert time.monotonic() < deadline, "the map did not move"
            page.wait_for_timeout(50)
        pictures.append(settled(page))

    page.mouse.move(x + 40, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 60, steps=4)
    page.mouse.up()
    differs()
    page.mouse.wheel(0, -240)
    differs()
    page.focus("#stage")
    for key in ("ArrowLeft", "ArrowDown", "+", "-"):
        page.keyboard.press(key)
        differs()
    page.click("#disk-in")
    differs()
    page.click("#disk-out")
    differs()
    page.mouse.dblclick(x + 90, y - 70)
    differs()
    page.click("#disk-reset")
    page.mouse.click(box["x"] + 4, box["y"] + 4)  # beside everything: nothing is chosen
    page.wait_for_timeout(600)
    assert settled(page) == start


def test_what_is_dragged_stays_under_the_pointer(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_page("/docs", base=woods)
    found = page.evaluate("""async () => {
        const { View } = await import("/web/disk_view.js");
        const g = await import("/web/disk_geometry.js");
        const view = new View();
        view.resize(800, 600);
        const at = (z) => [400 + view.scale * z[0], 300 + view.scale * z[1]];
        const off = (pixel, z) => Math.hypot(...at(g.apply(view.isometry, z)).map((value, i) => value - pixel[i]));
        const grabbed = g.apply(g.inverse(view.isometry), view.under(450, 350));
        view.drag(view.under(450, 350), view.under(380, 260));
        const dragged = off([380, 260], grabbed);
        view.zoom(1.7, 380, 260);
        const zoomed = off([380, 260], grabbed);
        const move = view.towards(grabbed);
        move(1);
        const centred = Math.hypot(...g.apply(view.isometry, grabbed));
        for (let i = 0; i < 50; i += 1) view.drag([0, 0], [0.5, 0.1]);
        const away = g.distance(g.apply(g.inverse(view.isometry), [0, 0]), [0, 0]);
        const turned = view.home();
        turned(1);
        return { dragged, zoomed, centred, away, home: [...view.isometry.a, ...view.isometry.b] };
    }""")
    assert found["dragged"] < 1e-6
    assert found["zoomed"] < 1e-6
    assert found["centred"] < 1e-9
    assert 1 < found["away"] <= 4.2  # one cannot lose the tree
    assert found["home"] == [1, 0, 0, 0]


def test_nodes_are_reached_with_tab_and_centred_with_enter(
    open_page: Callable[..., "Page"], woods: str, woods_client: httpx.Client
) -> None:
    page = open_map(open_page, woods, "/#disk=&in=grove")
    settled(page)
    page.focus("#stage")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('#disk-labels button')")
    page.keyboard.press("Tab")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    settled(page)
    page.wait_for_selector("#map-card:not([hidden])")
    assert name.startswith(text(page, "#map-card .title"))
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == name
    box = page.locator("#stage").bounding_box()
    label = page.evaluate("(({ x, width, y }) => [x + width / 2, y])(document.activeElement.getBoundingClientRect())")
    assert box is not None
    assert abs(label[0] - box["x"] - box["width"] / 2) <= 2
    assert abs(label[1] - box["y"] - box["height"] / 2) <= 80  # below its photo or dot
    page.click("#map-card >> text=Only this group")
    until(page, "new URLSearchParams(location.hash.slice(1)).get('disk') !== ''")
    node = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('disk')")
    told = woods_client.get(PROJECTION.format("grove"), params={"node": node}).json()
    facts = f"{told['of_nodes']} groups and {told['of_items']} photos"
    until(page, f"document.getElementById('disk-facts').textContent.startsWith({facts!r})")
    page.click("#disk-list")
    page.wait_for_selector("#node-items[aria-busy=false] .tile")


def test_photos_are_drawn_and_the_query_is_marked(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_map(open_page, woods)
    plain = settled(page)
    # With photos refused, the same map has dots alone.
    bare = open_page("/docs", base=woods)
    bare.route("**/thumbnail*", lambda route: route.abort())
    bare.goto("/#disk=")
    bare.wait_for_selector(LABEL)
    assert settled(bare) != plain
    page.goto(page.url.split("#")[0] + "#item=Fruit")
    page.wait_for_selector("#path:not([hidden])")
    page.click("#path-map")
    page.wait_for_selector("#map-card:not([hidden])")
    assert "Here belongs" in text(page, "#map-card .eyebrow")
    assert settled(page) != plain
    page.click("#map-card >> text=More like this")
    until(page, "new URLSearchParams(location.hash.slice(1)).get('item') === 'Fruit'")


FRAMES = """async (projection) => {
    const { View } = await import("/web/disk_view.js");
    const { Scene } = await import("/web/disk_scene.js");
    const { paint } = await import("/web/disk_painter.js");
    const canvas = Object.assign(document.createElement("canvas"), { width: 1280, height: 800 });
    const context = canvas.getContext("2d");
    const photo = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
    photo.getContext("2d").fillRect(0, 0, 128, 128);
    const [view, scene] = [new View(), new Scene(projection)];
    view.resize(1280, 800);
    const inks = { disk: "#fff", rim: "#ccc", muted: "#888", accent: "#000", branches: Array(12).fill("#0f766e") };
    const took = [];
    for (let i = 0; i < 41; i += 1) {
        const start = performance.now();
        view.drag([0, 0], [0.02 * Math.cos(i / 9), 0.02 * Math.sin(i / 9)]);
        scene.arrange(view, () => true);
        scene.fade(16, () => true, false);
        paint(context, scene, view, () => photo, inks);
        scene.labels(view, (text) => 7 * text.length);
        took.push(performance.now() - start);
    }
    return took.sort((one, other) => one - other)[20];
}"""


def test_1500_points_are_painted_within_a_frame(open_page: Callable[..., "Page"]) -> None:
    """60 frames a second leave 16.7 ms; the bound is of the script alone, as its median over a drag."""
    places = some_points(1500, 9, 2.8)
    link = {"id": "photo", "thumbnail": "/photo"}
    nodes = [
        {"id": f"n{i}", "title": f"Node {i}", "name": None, "parent": f"n{(i - 1) // 4}" if i else None, "x": x, "y": y,
         "size": 9, "branch": i % 12, "exemplar": link}
        for i, (x, y) in enumerate(places[:300])
    ]  # fmt: skip
    items = [
        {**link, "id": f"i{i}", "parent": f"n{i % 300}", "x": x, "y": y, "branch": i % 12}
        for i, (x, y) in enumerate(places[300:])
    ]
    page = open_page("/docs")
    assert page.evaluate(FRAMES, {"nodes": nodes, "items": items}) < 16.7


def test_map_on_a_phone_is_touched(open_page: Callable[..., "Page"], woods: str) -> None:
    page = open_map(open_page, woods, viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    before = settled(page)
    pinched = """async (spread) => {
        const stage = document.getElementById("stage");
        stage.setPointerCapture = () => {};  // these pointers are none of the browser's
        const { left, top, width, height } = stage.getBoundingClientRect();
        const [x, y] = [left + width / 2, top + height / 2];
        const at = (pointerId, kind, offset) => stage.dispatchEvent(
            new PointerEvent(kind, { pointerId, bubbles: true, button: 0, clientX: x + offset, clientY: y }));
        at(7, "pointerdown", -30);
        at(8, "pointerdown", 30);
        at(8, "pointermove", 30 + spread);
        at(7, "pointermove", -30 - spread);
        at(7, "pointerup", -30 - spread);
        at(8, "pointerup", 30 + spread);
    }"""
    page.evaluate(pinched, 50)
    assert settled(page) != before
    assert page.is_hidden("#problem")
