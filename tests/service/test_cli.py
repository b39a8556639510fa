"""Settings by file, environment and command line; ``lhier serve`` as a process."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner, Result

from service.cli import serve
from service.settings import load_settings, unknown_variables

from .conftest import Trip, draw, encoded


def run(*arguments: object) -> Result:
    return CliRunner().invoke(serve, [str(argument) for argument in arguments])


def test_file_below_environment_below_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "service.toml"
    config.write_text(
        'checkpoint = "from-file"\nstore = "from-file"\nport = 1\n[limits]\nbody_bytes = 11\nimage_bytes = 12\n'
    )
    monkeypatch.setenv("LHIER_STORE", "from-environment")
    monkeypatch.setenv("LHIER_PORT", "2")
    monkeypatch.setenv("LHIER_LIMITS__BODY_BYTES", "21")
    monkeypatch.setenv("LHIER_AUTH__READ_KEY", "a long key")
    settings = load_settings(config, port=3, inference={"device": "cuda"})
    assert (str(settings.checkpoint), str(settings.store), settings.port) == ("from-file", "from-environment", 3)
    assert (settings.limits.body_bytes, settings.limits.image_bytes, settings.limits.deadline_s) == (21, 12, 30.0)
    assert settings.auth.read_key is not None
    assert settings.inference.device == "cuda"


@pytest.mark.parametrize(
    "text", ["prot = 1", "[limits]\nbody = 1", "[limit]\nbody_bytes = 1", 'port = "x"', "port = 99999"]
)
def test_typing_errors_in_the_file_are_told(tmp_path: Path, text: str) -> None:
    config = tmp_path / "service.toml"
    config.write_text(f'checkpoint = "c"\nstore = "s"\n{text}\n')
    done = run("--config", config)
    assert done.exit_code == 2
    assert re.search(r"prot|limits\.body|limit|port", done.output)
    config.write_text("port = ")
    assert run("--config", config).exit_code == 2


def test_typing_errors_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHIER_LIMITS__BODY", "1")
    with pytest.raises(ValueError, match=r"limits\.body"):
        load_settings(checkpoint="c", store="s")
    monkeypatch.delenv("LHIER_LIMITS__BODY")
    monkeypatch.setenv("LHIER_LIMIT__BODY_BYTES", "1")
    monkeypatch.setenv("LHIER_PROT", "9000")
    monkeypatch.setenv("LHIER_PORT", "9000")
    assert unknown_variables() == ["LHIER_LIMIT__BODY_BYTES", "LHIER_PROT"]


def test_wrong_use_is_explained(trip: Trip, tmp_path: Path) -> None:
    done = run()
    assert done.exit_code == 2
    assert "--checkpoint" in done.output
    assert "LHIER_STORE" in done.output
    done = run("--checkpoint", trip.checkpoint, "--store", trip.store, "--host", "192.168.1.5")
    assert done.exit_code == 2
    assert "LHIER_AUTH__READ_KEY" in done.output
    assert run("--config", tmp_path / "none.toml").exit_code == 2


def test_what_cannot_be_served_fails_with_the_reason(
    trip: Trip, tmp_path: Path, make_checkpoint: Callable[[Path, int], Path]
) -> None:
    def fails(checkpoint: Path, store: Path, *more: str) -> str:
        done = run("--checkpoint", checkpoint, "--store", store, "--port", 0, *more)
        assert done.exit_code == 1, done.output
        return done.output

    assert "no checkpoint" in fails(tmp_path, trip.store)
    assert "choose cpu" in fails(trip.checkpoint, trip.store, "--device", "teapot")
    assert "'birds'" in fails(trip.checkpoint, trip.store, "--collection", "birds")
    assert "distances between the two mean nothing" in fails(make_checkpoint(tmp_path / "other", 2), trip.store)
    damaged = make_checkpoint(tmp_path / "damaged", 1)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    assert "damaged" in fails(damaged, trip.store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("--checkpoint", trip.checkpoint, "--store", trip.store, "--port", taken.getsockname()[1])
    assert done.exit_code == 1
    assert "--port" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_logs_and_stops_gracefully(trip: Trip, tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "from service.cli import serve; serve()"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--checkpoint", str(trip.checkpoint), "--store", str(trip.store), "--port", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"Page: (http://127\.0\.0\.1:\d+)/", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        url = found[1]
        files = {"file": encoded(draw(1))}
        with httpx.Client(timeout=30) as client:  # a kept connection must not hold up the stop
            answer = client.post(f"{url}/v1/search", files=files, headers={"X-Request-ID": "traced"})
            assert len(answer.json()["hits"]) == 10
            process.send_signal(number)
            assert process.wait(20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert re.search(r"event=request request_id=traced method=POST path=/v1/search status=200 duration_ms=[\d.]+", text)
    assert "Stopped." in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_serve_can_be_stopped_while_it_starts(trip: Trip, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lhier.cli", "serve", "--checkpoint", trip.checkpoint, "--store", trip.store]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command), "--port", "0"], stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (encoder := psutil.Process(process.pid).children()):  # which then takes seconds to load the model
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    assert psutil.wait_procs(encoder, timeout=20)[1] == []
