"""Settings of the service: a TOML file, below environment variables, below the command line.

``LHIER_LIMITS__IMAGE_BYTES=5000000`` sets ``limits.image_bytes``; a key that is not listed here is an error.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

ENV_PREFIX = "LHIER_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuthSettings(_Section):
    """Who may ask for what.

    ``read_key`` is asked for on every ``/v1`` path, ``write_key`` where something changes; the write key opens both.
    Without either, whoever can connect may do everything; with a read key alone, nobody may change anything.
    ``former_read_keys`` and ``former_write_keys`` are taken as well, for as long as keys are being changed.
    """

    read_key: SecretStr | None = Field(default=None, min_length=8)
    write_key: SecretStr | None = Field(default=None, min_length=8)
    former_read_keys: tuple[Annotated[SecretStr, Field(min_length=8)], ...] = ()
    former_write_keys: tuple[Annotated[SecretStr, Field(min_length=8)], ...] = ()
    allow_anonymous: bool = False


class LimitSettings(_Section):
    """What one request may bring, and how many may be under way. Bytes, pixels and seconds."""

    body_bytes: PositiveInt = 32 * 2**20
    upload_bytes: PositiveInt = 4 * 2**30  # archives of photos and snapshots, written to disk as they come
    image_bytes: PositiveInt = 20 * 2**20
    image_pixels: PositiveInt = 50_000_000
    image_min_side: PositiveInt = 3
    images: PositiveInt = 32
    in_flight: PositiveInt = 64
    queued: Annotated[int, Field(ge=0)] = 256
    deadline_s: PositiveFloat = 30.0


class InferenceSettings(_Section):
    """Where the encoder runs and how many photos it takes at once.

    ``runtime`` "auto" is OpenVINO on the CPU and torch elsewhere. A worker that makes no progress for ``stuck_s``
    seconds with work before it is replaced.
    """

    device: str = "cpu"
    runtime: Literal["auto", "openvino", "torch", "onnxruntime"] = "auto"
    precision: Literal["f32", "bf16"] = "f32"
    max_batch: PositiveInt = 16
    decode_threads: PositiveInt = min(4, os.cpu_count() or 1)
    threads: PositiveInt | None = None
    stuck_s: PositiveFloat = 60.0


class QuotaSettings(_Section):
    """How much the store may hold; writes beyond it are refused with 507. Bytes; None for no bound."""

    store_bytes: PositiveInt | None = None
    free_disk_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    memory_bytes: PositiveInt | None = None
    collections: PositiveInt = 64
    items: PositiveInt | None = None


class UrlSettings(_Section):
    """Queries by URL. ``allowed_hosts`` empty: any host whose every address is public."""

    enabled: bool = False
    timeout_s: PositiveFloat = 3.0
    max_bytes: PositiveInt = 10_000_000
    max_redirects: Annotated[int, Field(ge=0, le=10)] = 3
    allowed_schemes: tuple[Literal["http", "https"], ...] = ("http", "https")
    allowed_ports: tuple[Annotated[int, Field(gt=0, le=65535)], ...] = (80, 443)
    allowed_hosts: tuple[str, ...] = ()


class JobSettings(_Section):
    """Long work in the background. Finished jobs and their files are forgotten after ``keep_days``."""

    running: PositiveInt = 1
    waiting: PositiveInt = 100
    keep_days: PositiveFloat = 7.0


class OperationSettings(_Section):
    """How the process starts, stops and tells what it does. Seconds."""

    drain_s: PositiveFloat = 25.0
    log_format: Literal["text", "json"] = "text"
    recall_probe_s: Annotated[float, Field(ge=0)] = 300.0


class Settings(BaseSettings):
    """Everything ``lhier serve`` can be told."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=None
    )

    checkpoint: Path
    store: Path
    collections: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    image_root: Path | None = None
    search_device: Literal["cpu", "cuda"] = "cpu"
    thumbnail_cache_bytes: Annotated[int, Field(ge=0)] = 64 * 2**20
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    inference: InferenceSettings = InferenceSettings()
    quotas: QuotaSettings = QuotaSettings()
    urls: UrlSettings = UrlSettings()
    jobs: JobSettings = JobSettings()
    operation: OperationSettings = OperationSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line (the constructor's arguments) before environment before file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.auth.read_key is None and not self.auth.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host or 'every address'} without a key: set {ENV_PREFIX}AUTH__READ_KEY, "
                f"or listen on 127.0.0.1, or set {ENV_PREFIX}AUTH__ALLOW_ANONYMOUS=1 to let anyone in"
            )
        return self


def load_settings(config: Path | None = None, **command_line: Any) -> Settings:
    """Settings from an optional TOML file, the environment and the command line, later ones winning.

    Raises ``pydantic.ValidationError`` (a ``ValueError``) for unknown keys, wrong values and an open door
    without a key, and ``FileNotFoundError`` for a missing ``config``.
    """
    if config is not None and not config.is_file():
        raise FileNotFoundError(f"no settings file at {config}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return FromFile(**command_line)


def unknown_variables() -> list[str]:
    """Names of environment variables with our prefix that no setting takes: typing errors.

    A wrong key inside a section that exists is refused by :func:`load_settings`.
    """
    ours = (variable for variable in sorted(os.environ) if variable.upper().startswith(ENV_PREFIX))
    return [name for name in ours if name[len(ENV_PREFIX) :].lower().split("__")[0] not in Settings.model_fields]


def is_loopback(host: str) -> bool:
    """Whether a server that listens on ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
