"""A writer is killed at random points, and a process at each fsync and rename: no write lost, no state in between.

The whole of it, by hand: kills.py with --kills 200, faults.py with --share 1.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KILLS = 15
SHARE = 0.06


def report_of(script: str, *arguments: object, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, HERE / script, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, report
    return report


@pytest.mark.slow
def test_a_writer_killed_at_random_points_loses_and_invents_nothing(tmp_path: Path) -> None:
    report = report_of("kills.py", tmp_path, "--kills", KILLS, "--rows", 500)
    assert report["kills"] == KILLS
    assert report["acknowledged"] > KILLS
    assert report["wrong"] == []


@pytest.mark.slow
def test_a_fault_at_a_sync_or_a_rename_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and a Linux loader: the calls of SQLite are caught by a preloaded library")
    library = tmp_path / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    (tmp_path / "work").mkdir()
    report = report_of("faults.py", tmp_path / "work", "--share", SHARE, LD_PRELOAD=str(library))
    assert report["wrong"] == []
    operations = report["operations"]
    assert all(found["calls"] >= 3 and found["tried"] for found in operations.values())
    # Had nothing been caught, nothing would be old; had everything been undone, nothing would be new.
    assert sum(found["old"] for found in operations.values()) > 0
    assert sum(found["new"] for found in operations.values()) > 0
