"""The job on Ray Data against the job here. Ray starts its own processes, which takes most of this test's time."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder

if importlib.util.find_spec("ray") is None:
    pytest.skip("the extra 'ray' is not installed", allow_module_level=True)


@pytest.mark.slow
def test_rows_of_ray_are_those_of_the_local_job(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_efficientnet", embedding_dim=8, image_size=64)
    save_checkpoint(tmp_path / "run" / "checkpoint", Encoder(config).eval())
    rng = np.random.default_rng(0)
    for path in photos.rglob("[0-9]*.png"):
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(path)

    def embed(out: Path, *options: str) -> dict[str, int]:
        command = [sys.executable, "-m", "lhier.cli", "embed", tmp_path / "run", photos, "--out", out, "--json"]
        done = subprocess.run(
            [*map(str, command), "--shard-size", "5", "--batch-size", "2", *options],
            check=False, capture_output=True, text=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, int] = json.loads(done.stdout)
        return answer

    here, there = tmp_path / "here", tmp_path / "there"
    embed(here)
    answer = embed(there, "--engine", "ray", "--workers", "2")
    assert (answer["count"], answer["failed"], answer["reused"]) == (12, 2, 0)
    names = sorted(path.name for path in here.iterdir())
    assert names == sorted(path.name for path in there.iterdir())
    assert len(names) == 5
    for name in names:
        if name.endswith(".parquet"):
            assert pq.read_table(here / name).equals(pq.read_table(there / name))
        elif name == "failures.jsonl":
            assert (here / name).read_text() == (there / name).read_text()
