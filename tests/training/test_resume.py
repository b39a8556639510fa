"""Runs that are killed at any moment and resumed end as runs that were not, bit for bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hyperbolic.checkpoint import load_checkpoint
from training.data.split import load_data
from training.loop import train
from training.recipe import Recipe, dump_recipe, parse_recipe
from training.run_folder import TrainingError, prepare_run
from training.schedule import Schedule


def deterministic_recipe(tiny: Recipe, steps: int) -> Recipe:
    content = tiny.model_dump(mode="json", exclude_none=True)
    content["train"] |= {"deterministic": True, "steps": steps, "save_every": 7, "frozen_backbone": False}
    content["selection"] = {"rule": "best_on_test", "every": 20}
    return parse_recipe(content, "test")


def start(recipe: Path, run: Path, cache: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lhier.cli", "train", str(recipe), "--out", str(run), "--cache", str(cache), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: "subprocess.Popen[str]", file: Path, lines: int) -> None:
    end = time.monotonic() + 120
    while not (file.is_file() and file.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_three_kills_at_random_leave_no_trace(tiny: Recipe, tmp_path: Path) -> None:
    """SIGKILL while steps are made, rows written and states saved; fine-tuning with evaluations in between."""
    steps = 60
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump_recipe(deterministic_recipe(tiny, steps)))
    whole = start(recipe, tmp_path / "whole", tmp_path / "cache")
    said, _ = whole.communicate(timeout=240)
    assert whole.returncode == 0, said
    draw = random.Random(3)
    more: tuple[str, ...] = ()
    for low, high in ((1, 18), (20, 38), (40, 58)):
        process = start(recipe, tmp_path / "killed", tmp_path / "cache", *more)
        wait_for(process, tmp_path / "killed" / "metrics.jsonl", draw.randrange(low, high))
        time.sleep(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        process.communicate()
        more = ("--resume",)
    last = start(recipe, tmp_path / "killed", tmp_path / "cache", "--resume")
    said, _ = last.communicate(timeout=240)
    assert last.returncode == 0, said
    for name in ("metrics.jsonl", "evaluations.jsonl", "recipe.toml", "classes.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert (tmp_path / "whole/metrics.jsonl").read_text().count("\n") == steps
    for name in ("model.safetensors", "proxies.safetensors"):
        files = [tmp_path / run / "checkpoint" / name for run in ("killed", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_run_killed_before_its_first_state_is_resumed_from_step_one(tiny: Recipe, tmp_path: Path) -> None:
    data = load_data(tiny.data)
    train(tiny, data, tmp_path / "whole", cache=tmp_path / "cache")
    prepare_run(tiny, tmp_path / "killed", resume=False)
    (tmp_path / "killed/metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    with pytest.raises(TrainingError, match="continue it with --resume"):
        train(tiny, data, tmp_path / "killed", cache=tmp_path / "cache")
    train(tiny, data, tmp_path / "killed", cache=tmp_path / "cache", resume=True)
    stories = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "killed")]
    assert stories[0] == stories[1]


def test_a_checkpoint_caught_between_its_renames_is_found_again(tiny: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny, load_data(tiny.data), run, cache=tmp_path / "cache")
    (run / "checkpoint").rename(run / ".checkpoint.old")
    prepare_run(tiny, run, resume=True)
    load_checkpoint(run)


def test_fp16_resumes_with_its_scale(tiny: Recipe, tmp_path: Path) -> None:
    content = tiny.model_dump(mode="json", exclude_none=True)
    content["train"] |= {"precision": "16-mixed", "save_every": 10}
    recipe = parse_recipe(content, "test")
    data = load_data(recipe.data)
    train(recipe, data, tmp_path / "run", cache=tmp_path / "cache")
    whole = (tmp_path / "run/metrics.jsonl").read_text()
    # back to the state of step 10, with the scale of a run that had skipped twice
    longer = tmp_path / "cut"
    train(recipe, data, longer, cache=tmp_path / "cache")
    state = torch.load(longer / "training_state.pt", weights_only=True)
    state["precision"]["scale"], state["skipped_steps"] = 16384.0, [2, 0]
    torch.save({**state, "step": 19}, longer / "training_state.pt")
    train(recipe, data, longer, cache=tmp_path / "cache", resume=True)
    row = json.loads((longer / "metrics.jsonl").read_text().splitlines()[-1])
    assert (row["step"], row["loss_scale"], row["skipped_steps"]) == (20, 16384.0, 2)
    assert json.loads(whole.splitlines()[-1])["loss_scale"] == 65536.0


def test_deterministic_mode_ends_with_the_run(tiny: Recipe, tmp_path: Path) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    threads = torch.get_num_threads()
    recipe = deterministic_recipe(tiny, 2)
    seen: list[bool] = []

    def score(embedder: object) -> dict[str, float]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return {"recall_at_1": 0.5}

    train(recipe, load_data(recipe.data), tmp_path / "run", cache=tmp_path / "cache", evaluate=score)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert torch.load(tmp_path / "run/training_state.pt", weights_only=True)["threads"] == threads


LIBRARY = ["multi_similarity", "soft_triple", "normalised_softmax", "proxy_nca", "cross_batch_memory"]


@pytest.mark.parametrize("name", LIBRARY)
def test_every_metric_loss_resumes_to_the_same_bits(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Cross-batch memory: with its queue, which wraps around here."""
    content = tiny.model_dump(mode="json", exclude_none=True)
    content["loss"]["library"] = {"name": name, "memory_size": 40}
    content["train"] |= {"steps": 9, "save_every": 4}
    recipe = parse_recipe(content, "test")
    data = load_data(recipe.data)
    train(recipe, data, tmp_path / "whole", cache=tmp_path / "cache")
    apply = Schedule.apply

    def crash(self: Schedule, optimiser: torch.optim.Optimizer, step: int) -> None:
        if step == 6:
            raise OSError("power cut")
        apply(self, optimiser, step)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "apply", crash)
        with pytest.raises(OSError, match="power cut"):
            train(recipe, data, tmp_path / "cut", cache=tmp_path / "cache")
    train(recipe, data, tmp_path / "cut", cache=tmp_path / "cache", resume=True)
    stories = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "cut")]
    assert stories[0] == stories[1]
