"""Oracles shared by the tests of the geometry: mpmath at 60 digits, and geoopt in float64."""

import warnings
from types import ModuleType

import mpmath
import pytest
import torch

mpmath.mp.dps = 60


class Exact:
    """The textbook formulas of the hyperboloid at 60 digits, on the exact values of the tensors given."""

    def __init__(self, c: float) -> None:
        self.c = mpmath.mpf(c)

    def vector(self, values: torch.Tensor) -> list[mpmath.mpf]:
        return [mpmath.mpf(v) for v in values.double().tolist()]

    def dot(self, a: list[mpmath.mpf], b: list[mpmath.mpf]) -> mpmath.mpf:
        return mpmath.fdot(a, b)

    def time(self, x: list[mpmath.mpf]) -> mpmath.mpf:
        return mpmath.sqrt(1 / self.c + self.dot(x, x))

    def inner(self, x: list[mpmath.mpf], y: list[mpmath.mpf]) -> mpmath.mpf:
        return self.dot(x, y) - self.time(x) * self.time(y)

    def distance(self, x_space: torch.Tensor, y_space: torch.Tensor) -> float:
        x, y = self.vector(x_space), self.vector(y_space)
        if x == y:
            return 0.0
        return float(mpmath.acosh(-self.c * self.inner(x, y)) / mpmath.sqrt(self.c))

    def expmap0(self, z: torch.Tensor) -> list[float]:
        v = self.vector(z)
        r = mpmath.sqrt(self.c * self.dot(v, v))
        return [float((mpmath.sinh(r) / r if r else 1) * e) for e in v]

    def logmap0(self, x_space: torch.Tensor) -> list[float]:
        v = self.vector(x_space)
        s = mpmath.sqrt(self.c * self.dot(v, v))
        return [float((mpmath.asinh(s) / s if s else 1) * e) for e in v]

    def centroid(self, x_space: torch.Tensor, weights: torch.Tensor) -> list[float]:
        points = [self.vector(row) for row in x_space]
        w = self.vector(weights)
        space = [mpmath.fdot(w, column) for column in zip(*points, strict=True)]
        time = mpmath.fdot(w, [self.time(p) for p in points])
        length = mpmath.sqrt(abs(self.dot(space, space) - time**2))
        return [float(e / (mpmath.sqrt(self.c) * length)) for e in space]


@pytest.fixture(scope="session")
def exact() -> type[Exact]:
    return Exact


@pytest.fixture(scope="session")
def geoopt() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # geoopt still uses torch.jit.script
        import geoopt
    return geoopt


class Points:
    """Float32 sets of points that are hard for a geometry's numerics, as space parts (n, d)."""

    @staticmethod
    def on_shell(radius: float, c: float, n: int = 12, d: int = 8, seed: int = 0) -> torch.Tensor:
        """Random directions at one distance from the origin."""
        generator = torch.Generator().manual_seed(seed)
        u = torch.randn(n, d, generator=generator, dtype=torch.float64)
        u = u / u.norm(dim=-1, keepdim=True)
        return (u * torch.sinh(torch.tensor(radius * c**0.5, dtype=torch.float64)) / c**0.5).float()

    @staticmethod
    def pairs(largest: float, c: float, d: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs up to sqrt(c)|x_s| = largest: near, far, radial, antipodal, touching."""
        generator = torch.Generator().manual_seed(seed)
        x, y = [], []
        for size in (1e-4, 1e-2, 1.0, 10.0, 100.0, 2000.0):
            if size > largest:
                break
            u = torch.randn(2, d, generator=generator)
            u = u / u.norm(dim=-1, keepdim=True) * size / c**0.5
            x += [u[0]] * 8
            y += [u[1], u[0] * 0.3, -u[0], u[0], torch.zeros(d), u[0] * 1.001]
            y += [u[0] + 1e-3 * size * torch.randn(d, generator=generator), u[0] + 1e-6 * u[1]]
        return torch.stack(x), torch.stack(y)


@pytest.fixture(scope="session")
def points() -> type[Points]:
    return Points
