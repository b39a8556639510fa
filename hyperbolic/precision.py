"""Number formats of the geometry: float32 at least, float64 where like is subtracted from like, autocast off.

Half precision cannot hold the hyperboloid (x_time = 2000 squared overflows fp16, bf16 collapses near pairs),
so no function of the geometry ever computes in it, whatever it is fed and whatever autocast context it is
called in.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from jaxtyping import Float
from torch import Tensor

Scalar = float | int | Float[Tensor, ""]
"""A curvature c > 0: a number, or a 0-dim tensor that may carry a gradient."""

P = ParamSpec("P")


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let `function` compute in float32 (float64 for float64 inputs) with autocast off."""
    return _computing(function, lambda dtype: torch.float32 if dtype.itemsize < 4 else dtype)


def double_inside(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let `function` compute in float64 with autocast off and round its result once.

    The result is float32, or float64 where the inputs are. For the formulas that subtract like from like: far
    out, -x_t y_t + <x_s, y_s> loses a digit per unit of radius times 0.87, and float32 has none left at
    radius 8. Memory: temporaries are twice as large. Needs a device with float64.
    """
    return _computing(function, lambda _: torch.float64)


def _computing(function: Callable[P, Tensor], widen: Callable[[torch.dtype], torch.dtype]) -> Callable[P, Tensor]:
    def cast(value: Any) -> Any:
        return value.to(widen(value.dtype)) if isinstance(value, Tensor) and value.is_floating_point() else value

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        floats = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
        # A 0-dim curvature does not decide the result's format, as in torch's own promotion.
        shaped = [v for v in floats if v.dim() > 0] or floats
        result_dtype = torch.float64 if any(v.dtype == torch.float64 for v in shaped) else torch.float32
        args, kwargs = tuple(map(cast, args)), {k: cast(v) for k, v in kwargs.items()}  # type: ignore[assignment]
        device = shaped[0].device.type if shaped else "cpu"
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return function(*args, **kwargs).to(result_dtype)
        return function(*args, **kwargs).to(result_dtype)

    return run


def sqrt_of(c: Scalar) -> Scalar:
    """Return sqrt(c); a number that is not positive is refused (a tensor is not read)."""
    if isinstance(c, Tensor):
        return torch.sqrt(c)
    if not c > 0:
        raise ValueError(f"the curvature c must be > 0 (the space has sectional curvature -c), got {c}: pass c, not -c")
    return math.sqrt(c)


def safe_sqrt(square: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return sqrt(max(square, 0)) with gradient 0, not infinity, where `square` <= 0; NaN stays NaN."""
    positive = square > 0
    zero_or_nan = square.detach().clamp(0.0, 0.0)
    return torch.where(positive, torch.sqrt(torch.where(positive, square, 1.0)), zero_or_nan)


def polar(x: Float[Tensor, "*batch d"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch 1"]]:
    """Return the directions x/|x| and the lengths |x|, (..., d) -> (..., d), (..., 1), of float64 vectors.

    The direction is 0 where |x| <= 1e-140: there |x|^2 loses digits, and x/|x| would not be of length 1.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.where(length > 1e-140, torch.inf), length


def sinhc(r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return sinh(r)/r for r >= 0, 1 at 0; series below 0.05 (remainder r^8/9! <= 1.1e-16)."""
    small = r < 0.05
    s = r * r
    series = 1 + s / 6 * (1 + s / 20 * (1 + s / 42))
    big = torch.where(small, 1.0, r)
    return torch.where(small, series, torch.sinh(big) / big)


def asinhc(s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return asinh(s)/s for s >= 0, 1 at 0; series below 0.02 (remainder 35/1152 s^8 <= 8e-16)."""
    small = s < 0.02
    q = s * s
    series = 1 - q / 6 * (1 - q * 9 / 20 * (1 - q * 25 / 42))
    big = torch.where(small, 1.0, s)
    return torch.where(small, series, torch.asinh(big) / big)


def tanhc(r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return tanh(r)/r for r >= 0, 1 at 0; series below 0.02 (remainder 62/2835 r^8 <= 6e-16)."""
    small = r < 0.02
    s = r * r
    series = 1 - s / 3 * (1 - s * 2 / 5 * (1 - s * 17 / 42))
    big = torch.where(small, 1.0, r)
    return torch.where(small, series, torch.tanh(big) / big)


def atanhc(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return artanh(t)/t for 0 <= t < 1, 1 at 0; series below 0.02 (remainder t^8/9 <= 3e-15)."""
    small = t < 0.02
    s = t * t
    series = 1 + s * (1 / 3 + s * (1 / 5 + s / 7))
    big = torch.where(small, 0.5, t)
    return torch.where(small, series, torch.atanh(big) / big)
