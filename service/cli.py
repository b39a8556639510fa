"""``lhier serve`` and ``lhier doctor``."""

import gc
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from service.engine import Engine
    from service.settings import Settings


def _setup_options(command: Callable[..., None]) -> Callable[..., None]:
    """What is served, where, and on what: the options that both commands share."""
    folder = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (TOML)."),
        click.option(
            "--image-root", type=folder, help="Where the photos lie, if not (or no more) where they were embedded."
        ),
        click.option(
            "--runtime",
            type=click.Choice(["auto", "openvino", "torch", "onnxruntime"]),
            help="What runs the encoder. [default: auto]",
        ),
        click.option("--device", help="Where the encoder runs: cpu, cuda. [default: cpu]"),
        click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. [default: 8000]"),
        click.option("--host", help="Address to listen on. [default: 127.0.0.1]"),
        click.option(
            "--collection",
            "collections",
            multiple=True,
            help="Collection to serve; may be repeated. [default: all there are]",
        ),
        click.option("--store", type=click.Path(path_type=Path), help="Store folder that 'lhier index build' wrote."),
        click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint or run folder."),
    ):
        command = option(command)
    return command


@click.command()
@_setup_options
@click.option("--search-device", type=click.Choice(["cpu", "cuda"]), help="Where searches run. [default: cpu]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), help="How a line of the log is written. [default: text]"
)
def serve(search_device: str | None, log_level: str, log_format: str | None, **setup: Any) -> None:
    """Serve search by photo: a REST API and a page to try it on.

    \b
    lhier serve --checkpoint runs/grocery/checkpoint --store store
    curl -F file=@photo.jpg -F limit=5 http://127.0.0.1:8000/v1/search

    Every setting may also stand in the settings file or, above it, in the environment:
    LHIER_PORT=9000, LHIER_LIMITS__IMAGE_BYTES=5000000. Beyond loopback a key is asked for:
    set LHIER_AUTH__READ_KEY, and LHIER_AUTH__WRITE_KEY for those who may change something
    (clients send 'Authorization: Bearer KEY'), or name files that hold them: LHIER_AUTH__READ_KEY_FILE.
    'lhier doctor' checks all of it beforehand.
    """
    from service.operation.logs import configure
    from service.settings import unknown_variables

    settings = _settings(search_device=search_device, operation={"log_format": log_format}, **setup)
    configure(log_level, settings.operation.log_format, settings.auth.secrets())
    for variable in unknown_variables():
        logging.getLogger(__name__).warning("event=unknown_setting variable=%s action=ignored", variable)

    from index.errors import FaissMissingError, StoreError
    from service.app import create_app
    from service.encoder.supervisor import EncoderStartError
    from service.server import PortInUseError, bind, open_engine, serve_until_signal, url_of

    try:
        listener = bind(settings.host, settings.port)
    except PortInUseError as error:
        raise click.ClickException(str(error)) from error
    with listener:
        try:
            engine = open_engine(settings)
        except (EncoderStartError, StoreError, FaissMissingError) as error:
            raise click.ClickException(str(error)) from error
        try:
            app = create_app(engine, settings)
            # What was loaded stays: going through it held everything up for 50 ms every few seconds of load.
            gc.collect()
            gc.freeze()
            url = url_of(listener)
            click.echo(f"Serving {_held(engine)} with model {engine.model.model_hash} ({engine.model.backbone}).")
            click.echo(f"Page: {url}/   API: {url}/docs   Try: curl -F file=@photo.jpg -F limit=5 {url}/v1/search")
            serve_until_signal(app, settings, listener)
            click.echo("Stopped.")
        finally:
            engine.close()


@click.command()
@_setup_options
@click.option("--deep", is_flag=True, help="Read and check every stored item; takes as long as there are items.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def doctor(deep: bool, as_json: bool, **setup: Any) -> None:
    """Check what 'lhier serve' would run on: packages, checkpoint, store, disk, port, keys. Changes nothing.

    \b
    lhier doctor --checkpoint runs/grocery/checkpoint --store store
    lhier doctor --config service.toml --deep --json

    A line per check: ok, warn (it serves, but look at it) or FAIL, and what to do. Exit code 1 where one fails.
    """
    from dataclasses import asdict

    from service.operation.doctor import examine

    settings = _settings(**setup)
    findings = []
    for finding in examine(settings, deep=deep):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.verdict:<4} {finding.check}: {finding.detail}")
            if finding.action and finding.verdict != "ok":
                click.echo(f"     -> {finding.action}")
    sound = all(finding.verdict != "FAIL" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": sound, "checks": [asdict(finding) for finding in findings]}))
    if not sound:
        raise click.exceptions.Exit(1)


def _held(engine: "Engine") -> str:
    """What is served, in words."""
    told = []
    for state, count in engine.collections.survey(lambda served: served.collection.count):
        told.append(f"{state.name} (broken: {state.fault})" if count is None else f"{state.name} ({count:,} items)")
    return ", ".join(told) or "no collection yet"


def _settings(
    config: Path | None, device: str | None, runtime: str | None, collections: tuple[str, ...], **options: Any
) -> "Settings":
    """The settings, with those options above them that were given; told as wrong use where they cannot be."""
    from pydantic import ValidationError

    from service.settings import load_settings

    options |= {"inference": {"device": device, "runtime": runtime}, "collections": collections}
    try:
        return load_settings(config, **_given(options))
    except ValidationError as error:
        raise click.UsageError(_explain(error)) from error
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{config}: {error}") from error


def _given(options: dict[str, Any]) -> dict[str, Any]:
    values = {name: _given(value) if isinstance(value, dict) else value for name, value in options.items()}
    return {name: value for name, value in values.items() if value not in (None, (), {})}


def _explain(error: Exception) -> str:
    """Pydantic's errors, one line each, with the names by which the settings can be given."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    lines = []
    for each in error.errors(include_url=False):
        name = ".".join(str(part) for part in each["loc"])
        if each["type"] == "missing":
            lines.append(f"{name} is missing: give --{name} or set LHIER_{name.upper()}")
        else:
            lines.append(f"{name}: {each['msg']}" if name else each["msg"].removeprefix("Value error, "))
    return "; ".join(lines)
