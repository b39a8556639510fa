"""What can be said of images and compose without a Docker engine; docker/clean_root.sh performs the Dockerfile."""

import difflib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from service.settings import ENV_PREFIX, Settings, load_settings, unknown_variables

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = (ROOT / "Dockerfile", DOCKER / "Dockerfile.cuda")


def run_tool(name: str, *arguments: str | Path) -> str:
    """Run a checker from the virtual environment or the machine and answer what it said; skip where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: docker/check.sh says where it comes from")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=DOCKER)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def instructions(dockerfile: Path) -> list[str]:
    """Instructions of a Dockerfile, one a line: comments gone, continued lines joined, blanks made one."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#"))
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def image_environment(dockerfile: Path) -> dict[str, str]:
    lines = [line.removeprefix("ENV ") for line in instructions(dockerfile) if line.startswith("ENV ")]
    return dict(word.split("=", 1) for line in lines for word in line.split())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return loaded


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    run_tool("hadolint", dockerfile)


def test_compose_conforms_to_its_schema() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_the_scripts_pass_shellcheck() -> None:
    run_tool("shellcheck", *sorted(DOCKER.glob("*.sh")))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_image_runs_the_server_itself_without_root(dockerfile: Path) -> None:
    last = instructions(dockerfile)[[line.startswith("FROM") for line in instructions(dockerfile)].index(True) :]
    last = last[len(last) - 1 - [line.startswith("FROM") for line in reversed(last)].index(True) :]
    assert "USER 10001:10001" in last
    assert 'ENTRYPOINT ["lhier"]' in last
    assert 'CMD ["serve"]' in last
    assert "VOLUME /data" in last
    assert any(line.startswith("HEALTHCHECK") and "/livez" in line for line in last)
    labels = next(line for line in last if line.startswith("LABEL"))
    for argument in ("VERSION", "REVISION", "SOURCE"):
        assert any(line.startswith(f"ARG {argument}=") for line in last)
        assert f'org.opencontainers.image.{argument.lower()}="${{{argument}}}"' in labels
    pips = [line for line in instructions(dockerfile) if "pip install" in line]
    assert pips
    assert all("--constraint constraints.txt" in line or "--no-index" in line for line in pips)


def test_the_images_differ_only_in_what_cuda_asks_for() -> None:
    cpu, cuda = (instructions(path) for path in DOCKERFILES)
    changed = [line for line in difflib.ndiff(cpu, cuda) if line[0] in "+-"]
    assert {line[2:].split()[0] for line in changed} == {"RUN", "ENV", "LABEL"}
    runs = [line for line in changed if line[2:].startswith("RUN")]
    assert len(runs) == 2  # the extras
    assert '".[cpu,' in runs[0]
    assert '".[gpu,' in runs[1]
    here, there = (image_environment(path) for path in DOCKERFILES)
    assert {name for name in here | there if here.get(name) != there.get(name)} == {
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "LHIER_INFERENCE__DEVICE",
        "LHIER_SEARCH_DEVICE",
    }


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_service_understands_every_variable_of_the_image(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in image_environment(dockerfile).items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, value)
    for line in (DOCKER / "service.env.example").read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value or "0123456789abcdef")
    settings = load_settings()
    assert unknown_variables() == []
    assert settings.auth.write_key is not None
    assert settings.inference.device == ("cuda" if dockerfile.suffix == ".cuda" else "cpu")
    assert settings.store.is_relative_to("/data")
    assert settings.checkpoint.is_relative_to("/data")


def test_the_build_context_holds_what_the_images_copy_and_nothing_else() -> None:
    copied = {
        source
        for path in DOCKERFILES
        for line in instructions(path)
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_every_container_is_confined_watched_and_bounded(compose: dict[str, Any]) -> None:
    assert {tuple(service["profiles"]) for service in compose["services"].values()} == {
        ("cpu",), ("gpu",), ("monitoring",)
    }  # fmt: skip
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert int(service["stop_grace_period"].removesuffix("s")) >= 30, name
        # The service's own health check is its image's.
        assert ("healthcheck" in service) != ("build" in service), name
        assert ":latest" not in service["image"], name
        assert ":" in service["image"], name


def test_a_stop_outlasts_the_drain(compose: dict[str, Any]) -> None:
    settings = Settings(checkpoint=Path("c"), store=Path("s"))
    for name in ("lhier", "lhier-gpu"):
        grace = int(compose["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace >= settings.operation.notice_s + settings.operation.drain_s + 10


def test_the_service_is_reached_from_this_machine_only_unless_told(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all("127.0.0.1" in port for port in service["ports"])


def test_the_example_names_every_variable_that_compose_takes() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", (DOCKER / "compose.yaml").read_text()))
    example = (DOCKER / "env.example").read_text()
    offered = {line.partition("=")[0] for line in example.splitlines() if line and not line.startswith("#")}
    assert offered == asked | {"COMPOSE_PROFILES"}


def test_no_key_lies_in_the_examples_and_the_real_files_stay_out_of_git() -> None:
    text = (DOCKER / "service.env.example").read_text() + (DOCKER / "env.example").read_text()
    secrets = [line for line in text.splitlines() if re.match(r"[A-Z_]*(KEY|PASSWORD)", line)]
    assert len(secrets) == 3
    assert all(line.endswith("=") for line in secrets)
    assert {".env", "service.env"} <= set((DOCKER / ".gitignore").read_text().split())


def test_the_health_check_is_a_list_of_words() -> None:
    for path in DOCKERFILES:
        line = next(line for line in instructions(path) if line.startswith("HEALTHCHECK"))
        words = TypeAdapter(list[str]).validate_python(json.loads(line.partition(" CMD ")[2]))
        compile(words[2], "HEALTHCHECK", "exec")
