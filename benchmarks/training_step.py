"""What a training step costs: the hierarchical loss against a loop-mined one, the optimiser against its peers.

    python -m benchmarks.training_step [--out FOLDER] [--threads 1]

**Loss**, forward and backward, at batch 90 and 180 with 512 proxies of 128 dimensions. The reference is written as
HIER's public code does it: reciprocal neighbours, then triplets drawn anchor by anchor in a Python loop, then eq. (6)
over all of them with torch's Gumbel-softmax and autograd. Distances and geometry are ours in both, so that the ratio is
that of mining and loss alone. Two counts of triplets: ``50+50`` as HIER takes, per image and per proxy, and ``6+3`` as
the recipes take at equal accuracy. The proxies lie on one shell, as HIER starts them, where nearly every one has a
reciprocal neighbour and so its triplets; spread over many radii the innermost ones are everybody's nearest, and both
losses have less to do.

**Optimiser**, one step on 512 Lorentz points of 128 dimensions (512 x 129 numbers): RiemannianAdamW with fixed and with
learned c, with and without decay, against geoopt's RiemannianAdam on its own Lorentz manifold without decay, and
torch's AdamW on as many plain numbers.

Everything runs in one process and in turn; ratios are those of medians.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import measure_together, write_result
from hyperbolic import lorentz
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.models.config import ModelConfig
from hyperbolic.optim.adamw import RiemannianAdamW
from training.losses.hierarchy import HierarchicalProxyLoss
from training.recipe import HierarchyConfig

TRIPLETS = {"50+50": (50, 50), "6+3": (6, 3)}
IMAGES_PER_CLASS = 2
IMAGE_RADIUS, PROXY_RADIUS = 8.0, 4.0


class LoopMinedLoss(HierarchicalProxyLoss):
    """The same loss with its triplets drawn in a loop over anchors, and autograd through the Gumbel-softmax.

    The one thing left out of HIER's own mining is that it may draw the anchor itself as its negative.
    """

    def forward(self, space: Tensor, classes: Tensor, c: Tensor) -> Tensor:
        """Space parts (n, d) and class indices (n,) -> scalar."""
        config = self.config
        proxies = self.points(c)
        similarity = torch.exp(-self.distance(space, space, c).detach())
        similarity = similarity + (classes[:, None] == classes[None, :])
        between_proxies = self.distance(proxies, proxies, c)
        points_loss = self._loss(
            self.distance(space, proxies, c), self._mine(similarity, config.triplets_per_anchor, config.neighbours)
        )
        mined = self._mine(torch.exp(-between_proxies.detach()), config.triplets_per_proxy, config.neighbours)
        return points_loss + self._loss(between_proxies, mined)

    @staticmethod
    def _mine(similarity: Tensor, per_anchor: int, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
        nearest = similarity.fill_diagonal_(-1.0).topk(min(neighbours, len(similarity) - 1)).indices
        among = torch.zeros_like(similarity).scatter_(1, nearest, 1.0)
        reciprocal = ((among + among.T) / 2).fill_diagonal_(-1.0)
        anchors, positives, negatives = [], [], []
        for i in range(len(reciprocal)):
            related = torch.nonzero(reciprocal[i] == 1).squeeze(1).cpu().numpy()
            others = torch.nonzero((reciprocal[i] < 1) & (reciprocal[i] >= 0)).squeeze(1).cpu().numpy()
            if len(related) == 0 or len(others) == 0:
                continue
            positives.append(np.random.choice(related, per_anchor, replace=True))  # noqa: NPY002 - as HIER does
            negatives.append(np.random.choice(others, per_anchor, replace=True))  # noqa: NPY002
            anchors.append(np.full(per_anchor, i))
        i, j, k = (torch.from_numpy(np.concatenate(x)).to(similarity.device) for x in (anchors, positives, negatives))
        return i, j, k

    def _loss(self, to_proxies: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        d_i, d_j, d_k = (to_proxies[index] for index in triplets)
        pair = torch.maximum(d_i, d_j)
        ancestor_pair = F.gumbel_softmax(-pair / self.config.temperature, dim=1, hard=True)
        ancestor_all = F.gumbel_softmax(-torch.maximum(pair, d_k) / self.config.temperature, dim=1, hard=True)
        i, j, k = (((d * ancestor_pair).sum(1), (d * ancestor_all).sum(1)) for d in (d_i, d_j, d_k))
        hinges = [F.relu(near - far + self.config.margin) for near, far in (i, j, (k[1], k[0]))]
        return (sum(hinges) * (ancestor_pair.argmax(1) != ancestor_all.argmax(1))).mean()


def loss_steps(batch: int, proxies: int, dim: int, triplets: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """One forward and backward pass of each loss on the same points: images at D_max, as the default trains them."""
    model = ModelConfig(backbone="unused", embedding_dim=dim)
    config = HierarchyConfig(
        weight=1.0, proxies=proxies, triplets_per_anchor=triplets[0], triplets_per_proxy=triplets[1]
    )
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(batch) // IMAGES_PER_CLASS
    centres = F.normalize(torch.randn(int(classes.max()) + 1, dim, generator=generator), dim=-1)[classes]
    directions = F.normalize(centres + 0.05 * torch.randn(batch, dim, generator=generator), dim=-1)
    space = lorentz.expmap0(directions * IMAGE_RADIUS, 1.0)[:, 1:]
    on_shell = F.normalize(torch.randn(proxies, dim, generator=generator), dim=-1) * PROXY_RADIUS

    def step(kind: type[HierarchicalProxyLoss]) -> Callable[[], object]:
        torch.manual_seed(0)
        curvature = Curvature(model.curvature)
        loss = kind(model, curvature, config)
        with torch.no_grad():
            loss.proxies.copy_(lorentz.expmap0(on_shell, curvature()))
        inputs = space.clone().requires_grad_()

        def run() -> float:
            loss.zero_grad()
            curvature.zero_grad()
            inputs.grad = None
            value = loss(inputs, classes, curvature())
            value.backward()
            return float(value.detach())

        return run

    return {"LHIER": step(HierarchicalProxyLoss), "loop-mined": step(LoopMinedLoss)}


def optimiser_steps(points: int, dim: int) -> dict[str, Callable[[], object]]:
    """One step of each optimiser on its own copy of the same points, with a gradient of usual size in place."""
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(points, dim, generator=generator), dim=-1) * 3.0
    start = lorentz.expmap0(z, 1.0)
    gradient = torch.randn(points, dim + 1, generator=generator) * 1e-3
    gradient[:, 0] = 0.0  # as the geometry gives it
    calls: dict[str, Callable[[], object]] = {}

    def riemannian(learned: bool, decay: float) -> Callable[[], object]:
        curvature = Curvature(1.0, learnable=learned)
        parameter = LorentzParameter(start.clone(), curvature)
        parameter.grad = gradient.clone()
        parameters: list[Tensor] = [parameter]
        if learned:
            curvature.log_ratio.grad = torch.tensor(1e-3)
            parameters.append(curvature.log_ratio)
        return RiemannianAdamW(parameters, lr=1e-3, weight_decay=decay).step

    calls["RiemannianAdamW"] = riemannian(learned=False, decay=0.0)
    calls["RiemannianAdamW, decay"] = riemannian(learned=False, decay=1e-6)
    calls["RiemannianAdamW, learned c"] = riemannian(learned=True, decay=0.0)
    calls["RiemannianAdamW, learned c, decay"] = riemannian(learned=True, decay=1e-6)
    plain = torch.nn.Parameter(start.clone())
    plain.grad = gradient.clone()
    calls["torch AdamW"] = torch.optim.AdamW([plain], lr=1e-3).step
    try:
        import geoopt
    except ImportError:
        print("geoopt is not installed: its row is left out (pip install 'lhier[test]')")
        return calls
    theirs = geoopt.ManifoldParameter(start.clone(), manifold=geoopt.Lorentz(k=torch.tensor(1.0)))
    theirs.grad = gradient.clone()
    calls["geoopt RiemannianAdam"] = geoopt.optim.RiemannianAdam([theirs], lr=1e-3).step
    return calls


def rows_of(part: str, reference: str, measured: dict[str, dict[str, float]], **what: Any) -> list[dict[str, Any]]:
    """One row per call with its time as a share of the reference's."""
    base = measured[reference]["median_s"] if reference in measured else None
    return [
        {"part": part, **what, "name": name, **seconds, "of": reference, "ratio": seconds["median_s"] / base}
        if base
        else {"part": part, **what, "name": name, **seconds}
        for name, seconds in measured.items()
    ]


def main() -> None:
    """Run both parts and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result")
    parser.add_argument("--batches", default="90,180")
    parser.add_argument("--proxies", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="of the loss step")
    parser.add_argument("--optimiser-repeats", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the loop-mined reference draws from it
    batches = [int(batch) for batch in arguments.batches.split(",")]
    rows: list[dict[str, Any]] = []
    for batch in batches:
        measured: dict[str, dict[str, float]] = {}
        for name, triplets in TRIPLETS.items():
            calls = loss_steps(batch, arguments.proxies, arguments.dim, triplets)
            found = measure_together(calls, arguments.repeats, warmup=1)
            measured |= {f"{kind}, {name}": seconds for kind, seconds in found.items()}
        rows += rows_of("loss", "loop-mined, 50+50", measured, batch=batch)
    calls = optimiser_steps(arguments.proxies, arguments.dim)
    measured = measure_together(calls, arguments.optimiser_repeats, warmup=20)
    rows += rows_of("optimiser", "geoopt RiemannianAdam", measured)
    for row in rows:
        print(
            f"{row['part']} {row.get('batch', ''):>4} {row['name']:<34} {row['median_s'] * 1e3:9.2f} ms "
            f"{row.get('ratio', float('nan')):7.3f} of {row.get('of', '-')}"
        )
    parameters = {
        "batches": batches,
        "proxies": arguments.proxies,
        "dim": arguments.dim,
        "images_per_class": IMAGES_PER_CLASS,
        "image_radius": IMAGE_RADIUS,
        "proxy_radius": PROXY_RADIUS,
        "neighbours": HierarchyConfig(weight=1.0).neighbours,
        "triplets": {name: list(counts) for name, counts in TRIPLETS.items()},
        "threads": arguments.threads,
    }
    print("wrote", write_result("training_step", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
