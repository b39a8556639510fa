"""What the evaluation of a whole test set costs: retrieval measures of 60,000 x 128 embeddings, SOP's size.

    python -m benchmarks.evaluation [--out FOLDER] [--threads 2]

Labels as Stanford Online Products has them: 11,316 classes of about 5 photos in 12 super-classes, every photo asked for
among all the others (leave-one-out), recall at 1, 10, 100 and 1000, MAP@R of classes and super-classes, heights. By
geodesic distance and by cosine. Each ranking runs in a process of its own, whose peak memory holds
Python, torch and the embeddings too.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import PROJECT, peak_bytes, write_result

RANKINGS = ("geodesic", "cosine")
RECALL_AT = (1, 10, 100, 1000)
SUPER_CLASSES = 12
GOAL_SECONDS, GOAL_BYTES = 60, 2 * 10**9


def child(ranking: str, photos: int, classes: int, dim: int, threads: int) -> dict[str, Any]:
    """Evaluate once in this process: its row."""
    import torch
    import torch.nn.functional as F

    from hyperbolic import lorentz
    from training.metrics import cosine_ranking, lorentz_ranking, retrieval_metrics

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    # At least two photos of each class, as in SOP; the rest falls where it falls.
    rest = torch.randint(classes, (photos - 2 * classes,), generator=generator)
    labels = torch.cat([torch.arange(classes).repeat(2), rest])[torch.randperm(photos, generator=generator)]
    parent = torch.randint(SUPER_CLASSES, (classes,), generator=generator)
    centres = torch.randn(SUPER_CLASSES, dim, generator=generator)[parent] * 0.5
    centres = F.normalize(centres + torch.randn(classes, dim, generator=generator), dim=-1)
    z = F.normalize(centres[labels] + 0.12 * torch.randn(photos, dim, generator=generator), dim=-1)
    space = lorentz.expmap0(z * (3.0 + 0.05 * torch.randn(photos, 1, generator=generator)), 1.0)[:, 1:].contiguous()
    paths = torch.stack([parent[labels], labels], dim=1)
    before = peak_bytes()
    start, processor = time.perf_counter(), time.process_time()
    order = lorentz_ranking(1.0) if ranking == "geodesic" else cosine_ranking
    figures = retrieval_metrics(space, paths, space, paths, order, leave_one_out=True, recall_at=RECALL_AT)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {
        "ranking": ranking,
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
        **{name: round(value, 6) for name, value in figures.items()},
    }


def main() -> None:
    """Run each ranking in a fresh process and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result")
    parser.add_argument("--photos", type=int, default=60_000)
    parser.add_argument("--classes", type=int, default=11_316)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=RANKINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = {name: getattr(arguments, name) for name in ("photos", "classes", "dim", "threads")}
    if arguments.child:
        print(json.dumps(child(arguments.child, **shape)))
        return
    rows = []
    for ranking in RANKINGS:
        options = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "benchmarks.evaluation", *options, "--child", ranking]
        output = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        rows.append(row)
        print(f"{ranking:<9} {row['seconds']:6.1f} s {row['peak_bytes'] / 1e9:5.2f} GB R@1 {row['recall_at_1']:.3f}")
    parameters = {
        **shape,
        "super_classes": SUPER_CLASSES,
        "recall_at": list(RECALL_AT),
        "goal_seconds": GOAL_SECONDS,
        "goal_bytes": GOAL_BYTES,
    }
    print("wrote", write_result("evaluation", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
