"""A checkpoint is a folder: ``config.json``, ``model.safetensors`` and, from training, ``proxies.safetensors``.

No pickle: what the service loads is JSON and safetensors. The hashes of the weight files stand in the configuration,
the configuration's own beside them, and all are checked before anything is built.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save_file
from torch import Tensor

from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from hyperbolic.preprocessing import Preprocessing

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
PROXIES_FILE = "proxies.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint folder that is missing, incomplete, damaged or of another format."""


class CheckpointConfig(BaseModel):
    """Contents of ``config.json``; ``sha256`` maps each weight file to its hash.

    ``checksum`` is that of everything else in here; empty in checkpoints from before it was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    architecture: str
    model: ModelConfig
    preprocessing: Preprocessing
    sha256: dict[str, str]
    checksum: str = ""

    @property
    def model_hash(self) -> str:
        """12 hex digits that name weights, architecture and preprocessing: what a collection is bound to."""
        content = self.model_dump(mode="json", exclude={"checksum"})
        content["sha256"] = content["sha256"][MODEL_FILE]
        return _hash_of(content)[:12]

    def with_checksum(self) -> "CheckpointConfig":
        """The same with the checksum that belongs to it."""
        return self.model_copy(update={"checksum": _hash_of(self.model_dump(mode="json", exclude={"checksum"}))})


def _hash_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that ``path`` means: itself, or the ``checkpoint`` folder of a run.

    Raises :class:`CheckpointError` where there is neither.
    """
    for folder in (path, path / "checkpoint"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise CheckpointError(f"no checkpoint at {path}: expected a folder with {CONFIG_FILE} (or a run that holds one)")


def save_checkpoint(folder: Path, encoder: Encoder, proxies: dict[str, Tensor] | None = None) -> CheckpointConfig:
    """Write a checkpoint whole or not at all: into a folder beside it, synced, then swapped in."""
    staging = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file(_plain(encoder.state_dict()), staging / MODEL_FILE)
    files = [MODEL_FILE]
    if proxies:
        save_file(_plain(proxies), staging / PROXIES_FILE)
        files.append(PROXIES_FILE)
    config = CheckpointConfig(
        format_version=FORMAT_VERSION,
        architecture="lhier",
        model=encoder.config,
        preprocessing=encoder.preprocessing,
        sha256={name: hashlib.sha256((staging / name).read_bytes()).hexdigest() for name in files},
    ).with_checksum()
    (staging / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n")
    for path in (*staging.iterdir(), staging):
        _sync(path)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return config


def load_config(folder: Path) -> CheckpointConfig:
    """Read and check ``config.json``. Raises :class:`CheckpointError`."""
    path = resolve_checkpoint(folder) / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: expected JSON ({error})") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version!r}, this lhier reads {FORMAT_VERSION}: update lhier")
    try:
        config = CheckpointConfig.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if MODEL_FILE not in config.sha256:
        raise CheckpointError(f"{path} is damaged: expected the sha256 of {MODEL_FILE}, found {sorted(config.sha256)}")
    if config.checksum and config != config.with_checksum():
        raise CheckpointError(
            f"{path} is damaged: its contents are not those that were written (checksum {config.checksum[:12]}...): "
            "restore the file from where it came"
        )
    return config


def load_checkpoint(folder: Path) -> tuple[Encoder, CheckpointConfig]:
    """Encoder in evaluation mode, and its configuration, from a checkpoint (or run) folder.

    The hash of the weight file is compared before it is parsed. Raises :class:`CheckpointError`.
    """
    config = load_config(folder)
    state = _read_tensors(resolve_checkpoint(folder), MODEL_FILE, config)
    try:
        encoder = Encoder(config.model, weights="none")
        encoder.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"the weights in {folder} do not fit {config.model.backbone}: {error}") from error
    encoder.preprocessing = config.preprocessing
    return encoder.eval(), config


def load_proxies(folder: Path) -> dict[str, Tensor]:
    """The learned proxies beside the model, by name; empty where training had none. Raises :class:`CheckpointError`."""
    config = load_config(folder)
    if PROXIES_FILE not in config.sha256:
        return {}
    return _read_tensors(resolve_checkpoint(folder), PROXIES_FILE, config)


def _read_tensors(folder: Path, name: str, config: CheckpointConfig) -> dict[str, Tensor]:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} is incomplete: {name} cannot be read ({error.strerror})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != config.sha256[name]:
        raise CheckpointError(
            f"{folder / name} is damaged: expected sha256 {config.sha256[name][:12]}..., found {found[:12]}...: "
            "restore the file from where it came"
        )
    tensors: dict[str, Tensor] = load(data)
    return tensors


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors wants contiguous, unshared storage; clones also drop parameter subclasses.
    return {name: torch.empty_like(t, device="cpu").copy_(t).contiguous() for name, t in tensors.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
