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
    ``read_key_file`` and ``write_key_file`` name files that hold a key (secrets of Docker and Kubernetes).
    ``hosts`` are further names by which a service without keys may be asked on this machine.
    """

    read_key: SecretStr | None = Field(default=None, min_length=8)
    write_key: SecretStr | None = Field(default=None, min_length=8)
    read_key_file: Path | None = None
    write_key_file: Path | None = None
    former_read_keys: tuple[Annotated[SecretStr, Field(min_length=8)], ...] = ()
    former_write_keys: tuple[Annotated[SecretStr, Field(min_length=8)], ...] = ()
    allow_anonymous: bool = False
    hosts: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys_from_files(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {name: value for name, value in given.items() if value is not None and value != ""}  # compose passes ""
        for name in ("read_key", "write_key"):
            if (path := given.get(f"{name}_file")) is None:
                continue
            if name in given:
                raise ValueError(f"{name} and {name}_file are both given: keep one of them")
            try:
                given[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeError) as error:
                raise ValueError(f"{name}_file: {path} cannot be read ({error})") from error
        return given

    @model_validator(mode="after")
    def _former_keys_beside_new_ones(self) -> Self:
        for name in ("read", "write"):
            if getattr(self, f"former_{name}_keys") and getattr(self, f"{name}_key") is None:
                raise ValueError(f"former_{name}_keys without a {name}_key: the current key stands in {name}_key")
        return self

    @property
    def keyless(self) -> bool:
        """Whether no key is asked for anywhere."""
        return self.read_key is None and self.write_key is None

    def secrets(self) -> tuple[str, ...]:
        """Every key, in plain text: for what must never show one."""
        keys = (self.read_key, self.write_key, *self.former_read_keys, *self.former_write_keys)
        return tuple(key.get_secret_value() for key in keys if key is not None)


class LimitSettings(_Section):
    """What one request may bring, and how many may be under way. Bytes, pixels and seconds.

    ``max_wait_s``: beyond ``in_flight`` requests, further ones are taken only while they can expect an answer within
    this time. A head must come within ``header_s``, a body at ``upload_rate`` bytes a second or faster, an answer be
    read on within ``read_s``. ``buffered_bytes`` bounds all bodies that are in memory together.
    """

    body_bytes: PositiveInt = 32 * 2**20
    upload_bytes: PositiveInt = 4 * 2**30  # archives of photos and snapshots, written to disk as they come
    image_bytes: PositiveInt = 20 * 2**20
    image_pixels: PositiveInt = 50_000_000
    image_min_side: PositiveInt = 3
    images: PositiveInt = 32
    in_flight: PositiveInt = 64
    queued: Annotated[int, Field(ge=0)] = 256
    deadline_s: PositiveFloat = 30.0
    max_wait_s: PositiveFloat = 0.5
    header_s: PositiveFloat = 10.0
    upload_rate: PositiveInt = 1000
    read_s: PositiveFloat = 30.0
    connections: PositiveInt = 1000
    buffered_bytes: PositiveInt = 512 * 2**20

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        if self.body_bytes > self.buffered_bytes:
            raise ValueError(f"body_bytes {self.body_bytes} is more than buffered_bytes {self.buffered_bytes}")
        return self


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
    """How the process stops and tells what it does. Seconds.

    Told to stop, it says so on ``/readyz`` and takes requests for another ``notice_s``, so that load balancers see
    it, then finishes those under way within ``drain_s``. Kept connections without a request are closed after
    ``keep_alive_s``.
    """

    notice_s: Annotated[float, Field(ge=0)] = 2.0
    drain_s: PositiveFloat = 25.0
    log_format: Literal["text", "json"] = "text"
    keep_alive_s: PositiveFloat = 75.0
    recall_probe_s: Annotated[float, Field(ge=0)] = 300.0  # 0: never


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
