"""The report page against figures, neighbours and confusions worked out here by other means."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hyperbolic import lorentz
from hyperbolic.embedder import Embedder
from training.data.split import Photo, load_data
from training.evaluate import Points, embed_protocol, evaluate
from training.loop import train
from training.recipe import Recipe, load_recipe, parse_recipe
from training.report_analysis import confusion_matrix, most_confused, rank_queries, spread_sample
from training.report_charts import line_chart, ticks
from training.report_layout import disk_layout, geodesic_arc, plane_layout
from training.tools_cli import report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and text; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open[-1]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            self.elements.append((tag, dict(attrs), ""))
        else:
            self.open.append((tag, dict(attrs), []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        opened, attributes, text = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        self.elements.append((tag, attributes, "".join(text)))
        if tag == "td":
            self.handle_data("|")

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        def matches(attributes: dict[str, str | None]) -> bool:
            return all(value in (attributes.get(key.strip("_")) or "").split() for key, value in wanted.items())

        return [(attributes, text) for name, attributes, text in self.elements if name == tag and matches(attributes)]


@pytest.fixture(scope="module")
def made(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Path]:
    """(run folder with report.html, its recipe, cache) of a short real run, through the command."""
    folder = tmp_path_factory.mktemp("report")
    recipe = parse_recipe(
        {
            "name": "tiny <&>", "description": "</script><b>", "weights": "none",
            "model": {"backbone": "test_efficientnet", "image_size": 32, "embedding_dim": 8, "x_time_max": 10.0677,
                      "learn_curvature": True},
            "data": {"kind": "folder", "root": str(photo_folder), "hold_out": "images", "hold_out_fraction": 0.34},
            "train": {"steps": 6, "classes_per_batch": 4, "images_per_class": 3, "frozen_backbone": True, "views": 2,
                      "log_every": 1, "save_every": 10, "workers": 0},
            "optimiser": {"lr": 1e-2, "proxy_lr": 1e-2, "backbone_lr": 1e-3, "curvature_lr": 0.05},
            "loss": {"proxy_anchor": {"weight": 0.3}, "pairwise": {"weight": 1.0}, "path": {"weight": 0.15},
                     "hierarchy": {"weight": 0.5, "proxies": 16, "neighbours": 3, "triplets_per_anchor": 5,
                                   "triplets_per_proxy": 3}},
        },
        "tiny",
    )  # fmt: skip
    train(recipe, load_data(recipe.data, recipe.seed), folder / "run", cache=folder / "cache")
    result = CliRunner().invoke(report, [str(folder / "run"), "--cache", str(folder / "cache"), "--queries", "9"])
    assert result.exit_code == 0, result.output
    return folder / "run", recipe, folder / "cache"


@pytest.fixture(scope="module")
def page(made: tuple[Path, Recipe, Path]) -> Page:
    return Page((made[0] / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def points(made: tuple[Path, Recipe, Path]) -> tuple[Points, float]:
    run, recipe, _ = made
    embedder = Embedder.load(run)
    return embed_protocol(load_data(recipe.data, recipe.seed), embedder, None), embedder.c


def own_ranking(points: Points, c: float) -> tuple[np.ndarray, np.ndarray]:
    """(distances by the textbook arccosh in float64, whether the gallery photo is of the query's class)."""
    q, g = points.query.double().numpy(), points.gallery.double().numpy()
    time = [np.sqrt(1 / c + (x * x).sum(1)) for x in (q, g)]
    distances = np.arccosh(np.maximum(1, c * (np.outer(*time) - q @ g.T))) / np.sqrt(c)
    right = np.array([[a.labels == b.labels for b in points.gallery_photos] for a in points.query_photos])
    return distances, right


def test_every_figure_of_evaluate_is_on_the_page(made: tuple[Path, Recipe, Path], page: Page) -> None:
    run, recipe, _ = made
    figures = evaluate(load_data(recipe.data, recipe.seed), Embedder.load(run))
    cells = [re.sub(r"\s+", " ", text) for _, text in page.all("tr")]
    for name, value in figures.items():
        row = next(cell.split("|") for cell in cells if cell.startswith(name.removesuffix("_cosine") + "|"))
        count = name in ("queries", "gallery", "unreadable")
        assert row[2 if name.endswith("_cosine") else 1] == f"{value:{'.0f' if count else '.4f'}}", name
    text = next(text for _, text in page.all("section", id="figures"))
    assert "Selection rule: last" in text


def test_page_needs_nothing_outside_itself(made: tuple[Path, Recipe, Path], page: Page) -> None:
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"data:image/jpeg;base64,[\w+/=]*", "", text))
    sources = [attributes["src"] or "" for attributes, _ in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not page.all("link")
    assert page.all("title")[0][1] == "tiny <&> · seed 0"  # text of the recipe stays text
    assert not page.all("b", id="x")
    assert str(made[0].parent) not in text.split("recipe.toml of the run folder")[0]  # no machine's path


def test_curves_hold_every_logged_value(made: tuple[Path, Recipe, Path], page: Page) -> None:
    rows = [json.loads(line) for line in (made[0] / "metrics.jsonl").read_text().splitlines()]
    assert len({row["c"] for row in rows}) > 1  # c is learned here
    drawn = {attributes["aria-label"]: attributes["data-marks"] for attributes, _ in page.all("svg", class_="plot")}
    wanted = {"loss", "c", "lr", "gradient_norm", "proxy_anchor (weight 0.3)", "pairwise (weight 1)",
              "hierarchy (weight 0.5)", "path (weight 0.15)"}  # fmt: skip
    assert {str(label).removesuffix(" over steps") for label in drawn} == wanted
    marks = [mark.split(",") for mark in str(drawn["c over steps"]).split()]
    assert [float(mark[2]) for mark in marks] == [row["step"] for row in rows]
    assert [float(mark[3]) for mark in marks] == pytest.approx([row["c"] for row in rows], rel=1e-3)
    heights = [float(mark[1]) for mark in marks]
    assert np.argsort(heights).tolist() == np.argsort([-row["c"] for row in rows]).tolist()  # up is more


def test_worst_query_comes_first(points: tuple[Points, float], page: Page) -> None:
    distances, right = own_ranking(*points)
    precision, first = [], []
    for row in range(len(distances)):
        order = np.argsort(distances[row], kind="stable")
        hits = right[row][order]
        needed = int(hits.sum())
        places = np.arange(1, needed + 1)
        precision.append(float((hits[:needed].cumsum() / places * hits[:needed]).sum() / needed))
        first.append(int(hits.argmax()) + 1)
    cards = page.all("div", class_="query")
    assert len(cards) == 9
    shown = [float(re.search(r"average precision ([\d.]+)", text)[1]) for _, text in cards]  # type: ignore[index]
    assert shown == pytest.approx(sorted(precision)[:9], abs=6e-4)
    least = min(precision)
    worst = max((row for row in range(len(first)) if precision[row] == least), key=lambda row: first[row])
    assert f"first right at place {first[worst]}" in cards[0][1]
    assert " / ".join(points[0].query_photos[worst].labels) in cards[0][1]
    ours = rank_queries(points[0], points[1])
    assert ours.precision.numpy() == pytest.approx(precision)
    assert ours.first_right.tolist() == first


def test_strip_shows_the_nearest_with_right_marks(points: tuple[Points, float], page: Page) -> None:
    distances, right = own_ranking(*points)
    worst = rank_queries(points[0], points[1]).worst_first()[0]
    order = np.argsort(distances[worst], kind="stable")[:8]
    boxes = page.all("div", class_="hitbox")[:8]
    for (attributes, text), row in zip(boxes, order, strict=True):
        assert f"{distances[worst][row]:.2f}" in text
        assert "/".join(points[0].gallery_photos[row].labels) == attributes["title"]
        assert ("right" in (attributes["class"] or "")) == right[worst][row]


def test_confusions_are_counted(points: tuple[Points, float]) -> None:
    protocol, c = points
    distances, _ = own_ranking(protocol, c)
    pairs: dict[tuple[object, object], int] = {}
    for query, row in zip(protocol.query_photos, distances.argmin(1), strict=True):
        key = (query.labels, protocol.gallery_photos[row].labels)
        pairs[key] = pairs.get(key, 0) + 1
    rankings = rank_queries(protocol, c)
    found = most_confused(protocol, rankings, most=100)
    assert {(f.wanted, f.found): f.count for f in found} == {k: n for k, n in pairs.items() if k[0] != k[1]}
    assert [f.count for f in found] == sorted((f.count for f in found), reverse=True)
    matrix = confusion_matrix(protocol, rankings, 3)
    assert {
        (matrix.names[i], matrix.names[j]): int(n) for (i, j), n in np.ndenumerate(matrix.counts.numpy()) if n
    } == pairs
    small = confusion_matrix(protocol, rankings, 3, most=2)
    assert (len(small.names), small.left_out) == (2, len(matrix.names) - 2)


def test_leave_one_out_never_answers_with_the_query_itself() -> None:
    space = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    photos = tuple(Photo(Path(f"{i}.jpg"), ("a" if i < 29 else "b",)) for i in range(30))
    protocol = Points(space, photos, space, photos, leave_one_out=True, skipped=())
    rankings = rank_queries(protocol, 1.0)
    assert not (rankings.nearest == torch.arange(30)[:, None]).any()
    assert int(rankings.first_right[29]) == 0  # alone in its class: cannot be asked
    assert 29 not in rankings.worst_first()
    assert len(rankings.worst_first()) == 29


def test_disk_keeps_radii_and_stays_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(90, 16, generator=generator).double(), dim=1)
    radius = torch.rand(90, 1, generator=generator).double() * 2
    c = 0.7
    space = lorentz.expmap0(directions * radius, c)[:, 1:]
    layout = disk_layout(space[:80], space[80:], c)
    assert layout.scale == 1.0
    # A point at distance r from the origin lies at tanh(sqrt(c) r / 2) in the unit disk.
    wanted = torch.tanh(c**0.5 * radius.squeeze(1) / 2)
    placed = torch.cat([layout.items, layout.nodes]).norm(dim=1)
    assert placed.numpy() == pytest.approx(wanted.numpy(), abs=1e-12)
    far = disk_layout(space * 1e4, space[:0], c)
    assert far.scale < 1
    assert float(far.items.norm(dim=1).max()) == pytest.approx(0.94, abs=1e-6)


def test_disk_draws_clusters_together() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.nn.functional.normalize(torch.randn(6, 32, generator=generator), dim=1)
    label = torch.arange(120) % 6
    space = 8.0 * torch.nn.functional.normalize(
        centres[label] + 0.02 * torch.randn(120, 32, generator=generator), dim=1
    )
    layout = disk_layout(space, 4.0 * centres, 1.0)
    angle = torch.atan2(layout.items[:, 1], layout.items[:, 0])
    along = label[angle.argsort()]
    assert int((along != along.roll(1)).sum()) == 6  # each cluster is one arc
    node = torch.atan2(layout.nodes[:, 1], layout.nodes[:, 0])
    nearest = (torch.exp(1j * node)[:, None] - torch.exp(1j * angle)[None]).abs().argmin(1)
    assert label[nearest].tolist() == list(range(6))


def test_plane_keeps_distances_of_points_in_a_plane() -> None:
    # Points of a hyperbolic plane through their centroid lose nothing: logmap there keeps the radii and angles.
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=generator).double())[0]
    half = torch.randn(40, 2, generator=generator).double()
    z = torch.cat([half, -half]) @ turn[:2]  # symmetric: the centroid is the origin
    layout = plane_layout(lorentz.expmap0(z, 0.6)[:, 1:], lorentz.expmap0(0.5 * z[:3], 0.6)[:, 1:], 0.6)
    assert layout.share == pytest.approx(1.0)
    wanted = torch.tanh(0.6**0.5 * torch.cat([z, 0.5 * z[:3]]).norm(dim=1) / 2)
    assert torch.cat([layout.items, layout.nodes]).norm(dim=1).numpy() == pytest.approx(wanted.numpy(), abs=1e-9)


def test_arc_is_the_geodesic() -> None:
    a, b = (0.3, -0.2), (-0.55, 0.6)
    arc = geodesic_arc(a, b, steps=9)
    assert np.array(arc[0]) == pytest.approx(a)
    assert np.array(arc[-1]) == pytest.approx(b)

    def distance(p: tuple[float, float], q: tuple[float, float]) -> float:
        rims = (1 - p[0] ** 2 - p[1] ** 2) * (1 - q[0] ** 2 - q[1] ** 2)
        return float(np.arccosh(1 + 2 * ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / rims))

    steps = sum(distance(p, q) for p, q in pairwise(arc))
    assert steps == pytest.approx(distance(a, b), rel=1e-9)


def test_proxies_and_ancestors_are_on_the_page(made: tuple[Path, Recipe, Path], page: Page) -> None:
    assert len(page.all("circle", class_="proxy")) == 2 * 16  # on both disks
    shown = {text for _, text in page.all("rect", class_="node")}
    assert shown == {"warm", "cold", "warm/red", "warm/sun", "cold/sea", "cold/leaf"}
    assert len(page.all("circle", class_="dot")) == 2 * len(json.loads(page.all("script", id="disk-data")[0][1]))
    radii = next(text for _, text in page.all("section", id="radii"))
    # R = 3: ancestors at 0.35 R and 0.6 R of it, as recipe and loss say.
    assert "ancestors, level 1" in radii
    assert "Hierarchical proxies 16" in radii


def test_sample_is_even_over_classes() -> None:
    labels = [("a",)] * 50 + [("b",)] * 3 + [("c",)] * 9
    chosen = spread_sample(labels, 13)
    assert [sum(labels[row] == (name,) for row in chosen) for name in "abc"] == [5, 3, 5]
    assert spread_sample(labels, 100) == list(range(62))


def test_charts_take_gaps_flat_lines_and_single_points() -> None:
    gap = line_chart("x", [1, 2, 3, 4], [1.0, None, float("nan"), 2.0])
    assert len(re.findall("<polyline", gap)) == 2
    flat = line_chart("x", [1, 2], [3.0, 3.0])
    assert "nan" not in flat + line_chart("x", [5], [1.0]) + line_chart("x", [5], [None])
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(2.0, 2.0) == [2.0]


def test_errors_say_what_to_do(made: tuple[Path, Recipe, Path], tmp_path: Path) -> None:
    run, _, cache = made

    def fails(folder: Path, *more: str) -> str:
        result = CliRunner().invoke(report, [str(folder), "--cache", str(cache), *more])
        assert result.exit_code == 1, result.output
        return result.output

    assert "is not a run: expected recipe.toml" in fails(tmp_path)
    assert "data.root: expected a folder" in fails(run, "--set", "data.root=/nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "classes.json").write_text('[["warm", "red"], ["cold", "sea"]]')
    assert "proxies do not fit" in fails(copy)
    (copy / "classes.json").write_bytes((run / "classes.json").read_bytes())
    (copy / "metrics.jsonl").write_text('{"step": 1}\nbroken\n')
    (copy / "report.html").unlink()
    assert "metrics.jsonl, line 2" in fails(copy)
    assert not (copy / "report.html").exists()
    (copy / "checkpoint" / "model.safetensors").write_bytes(b"")
    assert "is damaged" in fails(copy)


def test_run_without_metrics_proxies_or_photos_of_some_still_reports(
    made: tuple[Path, Recipe, Path], photo_folder: Path, tmp_path: Path
) -> None:
    run, _, _ = made
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    config = tmp_path / "run" / "checkpoint" / "config.json"
    content = json.loads(config.read_text())
    del content["sha256"]["proxies.safetensors"], content["checksum"]
    config.write_text(json.dumps(content))
    (tmp_path / "photos" / "warm" / "sun" / "2.jpg").write_bytes(b"no photo")
    result = CliRunner().invoke(
        report,
        [str(tmp_path / "run"), "--set", f"data.root={tmp_path / 'photos'}", "--cache", str(tmp_path / "cache"),
         "--out", str(tmp_path / "other.html")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    text = (tmp_path / "other.html").read_text()
    Page(text)
    assert "holds no metrics.jsonl" in text
    assert "1 photos of the protocol could not be read" in text
    assert "no hierarchical proxies" in text
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert recipe.data.root in text  # the recipe as run, not as changed for the report
