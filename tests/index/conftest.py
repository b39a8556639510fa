"""Tree-like sets and an exact search of their own, which share no code with the index."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperbolic.embedder import Batch
from hyperbolic.images import ImageError
from index.catalogue import Item
from index.sources import Photo

Array = np.ndarray


def lift(space: Array, c: float) -> Array:
    return np.concatenate([np.sqrt(1 / c + (space**2).sum(-1, keepdims=True)), space], axis=-1)


def step(x: Array, direction: Array, length: float | Array, c: float) -> Array:
    """exp_x of a tangent vector of the given length: `direction` (n, d) at the origin, carried to x without
    turning."""
    root = np.sqrt(c)
    direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    inner = (x[:, 1:] * direction).sum(-1, keepdims=True)  # <x, v>_L, v's time is 0
    at_x = np.concatenate([np.zeros_like(inner), direction], axis=-1)
    both = x.copy()
    both[:, :1] += 1 / root
    at_x += inner / (1 / c + x[:, :1] / root) * both
    moved = np.cosh(root * length) * x + np.sinh(root * length) / root * at_x
    return lift(moved[:, 1:], c)  # rounding must not leave the hyperboloid


def _grow_tree(
    radius: float,
    cluster: int,
    count: int = 20_000,
    dim: int = 64,
    c: float = 1.0,
    scatter: float = 0.2,
    seed: int = 0,
) -> Array:
    """Four levels of geodesic steps from the origin; leaves are clusters of `cluster` points near `radius`
    (float32)."""
    rng = np.random.default_rng(seed)
    leaves = max(1, count // cluster)
    branching = max(2, int(np.ceil(leaves ** (1 / 3))))
    levels = np.zeros((1, dim + 1))
    levels[0, 0] = 1 / np.sqrt(c)
    for _ in range(3):
        parents = np.repeat(levels, branching, axis=0)
        levels = step(parents, rng.normal(size=(len(parents), dim)), radius / 3, c)
    # The steps meet at angles: bring each leaf to the radius asked for, then scatter its cluster about it.
    root = np.sqrt(c)
    space = levels[:, 1:] / np.linalg.norm(levels[:, 1:], axis=1, keepdims=True) * np.sinh(root * radius) / root
    centres = lift(space[rng.permutation(len(space))[:leaves]], c)
    points = np.repeat(centres, cluster, axis=0)[:count]
    lengths = rng.normal(scatter, scatter / 4, size=(len(points), 1))
    return step(points, rng.normal(size=(len(points), dim)), lengths, c)[:, 1:].astype(np.float32)


def _brute_force(queries: Array, points: Array, c: float) -> Array:
    """All distances (q, n) in float64, by the asinh form of geometry.md written out.

    |x - y|_L^2 = |x_s - y_s|^2 - (x_t - y_t)^2 loses x_t^2 u: 1e-10 of a distance near 0.3 at radius 8.3.
    """
    points = points.astype(np.float64)
    times = np.sqrt(1 / c + (points**2).sum(1))
    found = []
    for query in queries.astype(np.float64):
        difference = points - query
        time_difference = (difference * (points + query)).sum(1) / (times + np.sqrt(1 / c + query @ query))
        squared = (difference**2).sum(1) - time_difference**2
        found.append(2 / np.sqrt(c) * np.arcsinh(np.sqrt(c) / 2 * np.sqrt(np.maximum(squared, 0))))
    return np.array(found)


@pytest.fixture(scope="session")
def grow_tree() -> Callable[..., Array]:
    return _grow_tree


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., Array]:
    return _brute_force


class FakeEmbedder:
    """Points from the mean colour of a photo: what the job and the commands need of an embedder, in no
    time."""

    model_hash = "fa4e00000001"
    embedding_dim = 3
    c = 0.8
    batch_size = 3
    runtime = "torch"
    precision = "f32"
    preprocessing = None

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed(self, images: Sequence[Image.Image]) -> Array:
        colours = np.array([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in images])
        return (colours.reshape(-1, 3) / 64 - 2).astype(np.float32)

    def embed_tensors(self, images: torch.Tensor) -> Array:
        return (images[:, :, 0, 0].numpy() / 64 - 2).astype(np.float32)

    def decoded(
        self, batches: Iterable[Sequence[Photo]], read: Callable[[Photo], Image.Image]
    ) -> Iterator[Batch[Photo]]:
        for batch in batches:
            kept, colours, failed = [], [torch.zeros(0, 3)], []
            for photo in batch:
                self.seen.append(photo.path)
                try:
                    image = read(photo)
                except ImageError as error:
                    failed.append((photo, error))
                else:
                    kept.append(photo)
                    mean = np.asarray(image, dtype=np.float32).mean(axis=(0, 1))
                    colours.append(torch.from_numpy(mean)[None])
            yield Batch(kept, torch.cat(colours)[:, :, None, None], failed)


@pytest.fixture
def fake_embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve plain photos in nested folders, two that cannot be read, and one file that is none."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = root / ("fruit/apple" if number % 3 else "fruit/pear" if number % 2 else "tools")
        folder.mkdir(parents=True, exist_ok=True)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        Image.new("RGB", (8, 8), colour).save(folder / f"{number:02d} é.png")
    (root / "fruit" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    (root / "empty.png").touch()
    (root / "notes.txt").write_text("no photo")
    return root


@pytest.fixture
def items() -> list[Item]:
    rng = np.random.default_rng(0)
    return [
        Item(f"item-{n}", rng.normal(size=4).astype(np.float32), ("a", f"b{n % 3}"), {"n": n}, f"a/{n}.jpg")
        for n in range(20)
    ]


@pytest.fixture
def damage() -> Callable[[Path, str], None]:
    return _damage


def _damage(path: Path, how: str) -> None:
    """Flip one byte in the middle, cut the end off, empty the file, or remove it."""
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return
    if how == "flipped":
        data[len(data) // 2] ^= 0x10
    path.write_bytes({"flipped": data, "truncated": data[: len(data) // 2], "emptied": b""}[how])
