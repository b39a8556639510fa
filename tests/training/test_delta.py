"""delta_rel on spaces whose delta is known, and the command."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from hyperbolic import lorentz
from training.data.split import DataError
from training.delta import measure_delta, starting_curvature, stored_points
from training.tools_cli import delta


def circle(count: int, radius: float = 1.0) -> torch.Tensor:
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def test_points_of_a_line_are_a_tree() -> None:
    # Points on one line are a path graph: every four of them satisfy the 4-point condition with equality.
    line = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)) @ torch.ones(1, 7)
    found = measure_delta(line, sample=40, repeats=3)
    assert max(found.values) <= 1e-12
    assert found.sd <= 1e-12
    assert starting_curvature(0.0) is None


def test_tree_metric_has_delta_zero_and_a_cycle_one() -> None:
    # A random weighted tree by its own definition: distances along the path to the common ancestor.
    rng = np.random.default_rng(1)
    parent = [0] + [int(rng.integers(0, i)) for i in range(1, 80)]
    length = rng.uniform(0.1, 2.0, 80)

    def ancestors(node: int) -> list[int]:
        path = [node]
        while path[-1]:
            path.append(parent[path[-1]])
        return path

    depth = [sum(length[n] for n in ancestors(i) if n) for i in range(80)]
    distances = np.zeros((80, 80))
    for i in range(80):
        for j in range(80):
            above = set(ancestors(i))
            meeting = next(n for n in ancestors(j) if n in above)
            distances[i, j] = depth[i] + depth[j] - 2 * depth[meeting]
    assert lorentz.delta_rel(torch.from_numpy(distances)) <= 1e-12
    cycle = torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], dtype=torch.float64)
    assert lorentz.delta_rel(cycle) == pytest.approx(1.0)


@pytest.mark.parametrize("radius", [1.0, 37.0])
def test_circle_has_the_delta_of_its_inscribed_square(radius: float) -> None:
    # Sums over an inscribed square: diagonals 2 + 2, sides sqrt 2 + sqrt 2; delta = (4 - 2 sqrt 2)/2, diameter 2.
    found = measure_delta(circle(24, radius), sample=24, repeats=4, seed=3)
    assert found.values == pytest.approx([2 - math.sqrt(2)] * 4, abs=1e-12)
    assert starting_curvature(found.mean) == pytest.approx((0.144 / 0.585786) ** 2, rel=1e-5)


def test_mean_and_sd_are_over_different_samples() -> None:
    points = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    found = measure_delta(points, sample=40, repeats=6)
    assert len(set(found.values)) == 6
    assert found.mean == pytest.approx(float(np.mean(found.values)))
    assert found.sd == pytest.approx(float(np.std(found.values, ddof=1)))
    assert measure_delta(points, sample=40, repeats=6) == found
    assert measure_delta(points, sample=40, repeats=6, seed=1).values != found.values


def test_hyperbolic_points_are_more_tree_like_the_farther_out() -> None:
    directions = torch.nn.functional.normalize(torch.randn(120, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    near, far = (
        measure_delta(lorentz.expmap0(directions.double() * r, 1.0)[:, 1:], sample=120, repeats=2, c=1.0).mean
        for r in (0.1, 12.0)
    )
    assert near > 0.3
    assert far <= 2 * math.log(2) / 22  # H^d is log 2-hyperbolic at c = 1: 2 log 2 over a diameter near 24


@pytest.mark.parametrize(
    ("points", "message"),
    [(torch.zeros(3, 2), "4 or more, got 3"), (torch.ones(9, 2), "points of a sample are the same")],
)
def test_too_few_or_equal_points_are_refused(points: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_delta(points)


def test_command_measures_photos(photo_folder: Path, tmp_path: Path) -> None:
    command = [str(photo_folder), "--backbone", "test_efficientnet", "--weights", "none", "--image-size", "32",
               "--sample", "20", "--repeats", "3", "--cache", str(tmp_path)]  # fmt: skip
    result = CliRunner().invoke(delta, [*command, "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["points"], answer["sample"], answer["repeats"]) == (36, 20, 3)
    assert 0 < answer["delta_rel"] < 1
    assert answer["c"] == pytest.approx((0.144 / answer["delta_rel"]) ** 2)
    text = CliRunner().invoke(delta, command).stdout
    assert f"delta_rel {answer['delta_rel']:.4f} +- {answer['delta_rel_sd']:.4f}" in text
    assert f"model.curvature = {answer['c']:.4g}" in text
    assert "Khrulkov" in text


def test_command_judges_an_embedding_folder_by_geodesics(tmp_path: Path) -> None:
    space = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).numpy()
    column = pa.FixedSizeListArray.from_arrays(pa.array(space.ravel()), 3)
    pq.write_table(pa.table({"space": column}), tmp_path / "part-00000.parquet")
    (tmp_path / "manifest.json").write_text(
        json.dumps({"c": 0.5, "embedding_dim": 3, "parts": [{"file": "part-00000.parquet"}]})
    )
    stored = stored_points(tmp_path)
    assert stored is not None
    assert np.array_equal(stored[0].numpy(), space)
    result = CliRunner().invoke(delta, [str(tmp_path), "--json", "--repeats", "1"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["delta_rel"] == pytest.approx(measure_delta(stored[0], repeats=1, c=0.5).mean)
    assert answer["c"] is None
    (tmp_path / "part-00000.parquet").write_bytes(b"damaged")
    broken = CliRunner().invoke(delta, [str(tmp_path)])
    assert broken.exit_code == 1
    assert "run 'lhier embed' again" in broken.output


def test_command_explains_a_folder_without_photos(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "expected photos below it"), (tmp_path / "no", "expected a folder of photos")):
        result = CliRunner().invoke(delta, [str(folder)])
        assert result.exit_code == 1
        assert message in result.output
