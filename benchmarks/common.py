"""What every benchmark shares: the machine, the versions, the clock, and the result file that is never changed.

A result is ``<what>_<machine>_<date>_<commit>.json``: {what, date, commit, modified, machine, versions, parameters,
rows}. Every number of README.md and of the pictures comes from these files (plot.py).
"""

import importlib.metadata
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
FORMAT_VERSION = 1
PACKAGES = (
    "torch",
    "timm",
    "numpy",
    "geoopt",
    "pytorch-metric-learning",
    "faiss-cpu",
    "hnswlib",
    "ngt",
    "onnx",
    "onnxruntime",
    "openvino",
    "pillow",
    "pyarrow",
    "fastapi",
    "uvicorn",
    "uvloop",
    "litserve",
    "ray",
)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures depend on, without a host's name: processor, cores, memory, and the GPU if ``device`` is one.

    ``name`` is for file names: ``intel-xeon-processor-2c``, with the GPU's model where one was used.
    """
    import torch

    found = _processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = f"{_slug(found['cpu'])}-{cores}c"
    found |= {"cores": cores, "memory_gb": _memory_gb(), "system": f"{platform.system()} {platform.machine()}"}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        name += f"-{_slug(found['gpu'])}"
    return {"name": name, **found}


def _processor() -> dict[str, Any]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {"cpu": platform.processor() or platform.machine()}
    fields = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
    flags = fields.get("flags", "").split()
    told = {"cpu": re.sub(r"\((?:R|TM)\)", "", fields.get("model name", platform.machine())).strip()}
    if "model" in fields:
        told["cpu_model"] = f"family {fields.get('cpu family')} model {fields['model']}"
    units = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {**told, "vector_units": [unit for unit in units if unit in flags]}


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions() -> dict[str, str]:
    """Python and the packages that are installed of those that a figure may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> tuple[str, bool]:
    """The commit (7 digits) and whether code differs from it.

    A copy without its history names its commit in the variable LHIER_COMMIT.
    """
    given = os.environ.get("LHIER_COMMIT")
    if given:
        return given[:7], False
    try:
        head = _git("rev-parse", "--short=7", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.toml")
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
    return head, bool(changed.strip())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(PROJECT), *arguments], check=True, capture_output=True, text=True).stdout


def write_result(
    what: str, out: Path | None, parameters: dict[str, Any], rows: list[dict[str, Any]], device: str = "cpu"
) -> Path:
    """Write one run's result and return its path: into ``out`` (a folder, or a ``.json`` file), or RESULTS.

    ``what`` names the benchmark (``training_step``), ``parameters`` what it ran with, ``rows`` are flat dicts of what
    was measured. A file that is there already is never overwritten: ``FileExistsError``.
    """
    now = datetime.now(UTC)
    head, modified = commit()
    told = machine(device)
    content = {
        "format_version": FORMAT_VERSION,
        "what": what,
        "date": now.isoformat(timespec="seconds"),
        "commit": head,
        "modified": modified,
        "machine": told,
        "versions": versions(),
        "parameters": parameters,
        "rows": rows,
    }
    path = out or RESULTS
    if path.suffix != ".json":
        path = path / f"{what}_{told['name']}_{now.strftime('%Y-%m-%dT%H%M%S')}_{head}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")
    return path


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    if sys.platform == "linux":  # ru_maxrss would begin with that of the parent
        return 1024 * int(Path("/proc/self/status").read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    """Have :func:`peak_bytes` begin anew from what is resident now, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(call: Callable[[], object], repeats: int, warmup: int = 2) -> dict[str, float]:
    """Seconds of a call over ``repeats`` after ``warmup``: median_s, min_s, max_s, repeats."""
    return measure_together({"call": call}, repeats, warmup)["call"]


def measure_together(
    calls: dict[str, Callable[[], object]], repeats: int, warmup: int = 2
) -> dict[str, dict[str, float]]:
    """As :func:`measure` for several calls, taken in turn, so that what disturbs the machine disturbs them all."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median_s": statistics.median(s), "min_s": min(s), "max_s": max(s), "repeats": repeats}
        for name, s in seconds.items()
    }
