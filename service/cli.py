"""``lhier serve``."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from service.engine import Engine


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint or run folder.")
@click.option("--store", type=click.Path(path_type=Path), help="Store folder that 'lhier index build' wrote.")
@click.option(
    "--collection", "collections", multiple=True, help="Collection to serve; may be repeated. [default: all there are]"
)
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. [default: 8000]")
@click.option("--device", help="Where the encoder runs: cpu, cuda. [default: cpu]")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (TOML).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info", show_default=True)
def serve(
    checkpoint: Path | None,
    store: Path | None,
    collections: tuple[str, ...],
    host: str | None,
    port: int | None,
    device: str | None,
    config: Path | None,
    log_level: str,
) -> None:
    """Serve search by photo: a REST API and a page to try it on.

    \b
    lhier serve --checkpoint runs/grocery/checkpoint --store store
    curl -F file=@photo.jpg -F limit=5 http://127.0.0.1:8000/v1/search

    Every setting may also stand in the settings file or, above it, in the environment:
    LHIER_PORT=9000, LHIER_LIMITS__IMAGE_BYTES=5000000. Beyond loopback a key is asked for:
    set LHIER_AUTH__READ_KEY (clients send 'Authorization: Bearer KEY').
    """
    from pydantic import ValidationError

    from service.settings import load_settings, unknown_variables

    given: dict[str, object] = {"checkpoint": checkpoint, "store": store, "host": host, "port": port}
    given = {name: value for name, value in given.items() if value is not None}
    if collections:
        given["collections"] = collections
    if device is not None:
        given["inference"] = {"device": device}
    try:
        settings = load_settings(config, **given)
    except ValidationError as error:
        raise click.UsageError(_explain(error)) from error
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{config}: {error}") from error
    logging.basicConfig(
        level=log_level.upper(),
        format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    for chatty in ("faiss.loader", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
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
            url = url_of(listener)
            click.echo(f"Serving {_held(engine)} with model {engine.model.model_hash} ({engine.model.backbone}).")
            click.echo(f"Page: {url}/   API: {url}/docs   Try: curl -F file=@photo.jpg -F limit=5 {url}/v1/search")
            serve_until_signal(create_app(engine, settings), settings, listener)
            click.echo("Stopped.")
        finally:
            engine.close()


def _held(engine: "Engine") -> str:
    """What is served, in words."""
    told = []
    for state in engine.collections.states():
        if state.fault is not None:
            told.append(f"{state.name} (broken: {state.fault})")
        else:
            with engine.collections.use(state.name) as served:
                told.append(f"{state.name} ({served.collection.count:,} items)")
    return ", ".join(told) or "no collection yet"


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
