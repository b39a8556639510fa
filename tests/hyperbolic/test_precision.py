"""The quotients with a removable singularity, and which number format comes out of a geometry function."""

import mpmath
import pytest
import torch

from hyperbolic import lorentz, precision

VALUES = [0.0, 1e-300, 1e-12, 1e-3, 0.0199999, 0.02, 0.0499999, 0.05, 0.3, 0.9]


@pytest.mark.parametrize("name", ["sinhc", "asinhc", "tanhc", "atanhc"])
def test_quotients_against_mpmath(name):
    function = getattr(precision, name)
    exact = getattr(mpmath, name.removesuffix("c"))
    for dtype, bound in ((torch.float64, 2e-14), (torch.float32, 3e-7)):
        x = torch.tensor(VALUES, dtype=dtype)
        expected = [exact(mpmath.mpf(v)) / mpmath.mpf(v) if v else mpmath.mpf(1) for v in x.double().tolist()]
        error = [abs(mpmath.mpf(a) / e - 1) for a, e in zip(function(x).double().tolist(), expected, strict=True)]
        assert max(error) <= bound
    x = torch.tensor([1e-3, 0.015, 0.04, 0.06, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))
    zero = torch.zeros(1, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(zero).sum(), zero)
    assert torch.equal(gradient, torch.zeros(1))


def test_safe_sqrt():
    square = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
    root = precision.safe_sqrt(square)
    assert torch.equal(root.detach(), torch.tensor([0.0, 0.0, 2.0]))
    (gradient,) = torch.autograd.grad(root.sum(), square)
    assert torch.equal(gradient, torch.tensor([0.0, 0.0, 0.25]))


@pytest.mark.parametrize("wrap", [precision.full_precision, precision.double_inside])
def test_formats(wrap):
    seen = []

    @wrap
    def product(x: torch.Tensor, *, c: torch.Tensor | float) -> torch.Tensor:
        seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return x @ x.T * c

    inside = torch.float64 if wrap is precision.double_inside else torch.float32
    half, single = torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(2, 2)
    assert product(half, c=1.0).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(single, c=torch.tensor(1.0, dtype=torch.float64)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
    assert product(single.double(), c=torch.tensor(1.0)).dtype == torch.float64
    assert seen == [(inside, False), (inside, False), (torch.float64, False)]


def test_a_nan_is_never_taken_for_a_distance_of_zero() -> None:
    nan = torch.tensor([[1.0, torch.nan]])
    assert torch.isnan(precision.safe_sqrt(nan[0, 1]))
    x, y = lorentz.lift(nan, 1.0), lorentz.lift(torch.tensor([[0.5, 0.5]]), 1.0)
    assert torch.isnan(lorentz.distance(x, y, 1.0)).all()
    assert torch.isnan(lorentz.pairwise_distance(nan, nan, 1.0)).all()
