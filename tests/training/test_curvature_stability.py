"""1,000 steps with a learned curvature near D_max: constraints of points and momenta after every one of them."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "curvature_stability.py"
stability: Callable[..., dict[str, Any]] = runpy.run_path(str(BENCHMARK))["stability"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_aware_step_holds_for_1000_steps_near_d_max(precision: str) -> None:
    row = stability("aware", precision, "near_d_max", 1000)
    assert row["first_step_not_finite"] is None
    assert row["worst_point_violation"] <= 1e-5  # measured: 9e-8
    assert row["worst_tangent_violation"] <= 1e-5  # measured: 6e-8
    assert row["c_min"] < 0.75  # c was really learned
    assert row["c_max"] > 1.35
    assert row["radius_max"] >= 7.9
    assert row["loss_last"] < row["loss_first"]


@pytest.mark.parametrize("start", ["near_d_max", "near_origin"])
def test_the_naive_order_does_not(start: str) -> None:
    row = stability("naive", "32-true", start, 150)
    violation = max(row["worst_point_violation"], row["worst_tangent_violation"])
    assert row["first_step_not_finite"] is not None or violation > 1e-2
    assert violation > 1e-5
