"""Logs: lines of text or of JSON, each with the id of the request that it is about, none with a key or a photo."""

import json
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Literal
from urllib.parse import quote

from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered here; None outside of one."""

TEXT = "time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S%z"
HIDDEN = "***"
# Loggers that say at each start what nobody asked.
CHATTY = ("faiss.loader", "uvicorn.error")
# "event=name key=%s other=%.1f": the keys of a message's arguments.
_FIELD = re.compile(r"(?:(\w+)=)?%[-+ #0]*[\d.]*[srdfgi]")
_PLAIN_FIELD = re.compile(r"\b(\w+)=([^\s%]+)(?=\s|$)")


def configure(level: str, style: Literal["text", "json"], secrets: Iterable[str] = ()) -> None:
    """Have every logger write to standard error as ``style`` says; ``secrets`` come out as ``***``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(style, [*secrets]))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def formatter(style: Literal["text", "json"], secrets: Sequence[str] = ()) -> logging.Formatter:
    """What makes a line of a record."""
    secrets = [way for secret in secrets for way in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))]
    return _Json(secrets) if style == "json" else _Text(secrets)


class _Text(logging.Formatter):
    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(TEXT, TIME)
        self._secrets = secrets

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        request = request_id.get()
        return line if request is None or "request_id=" in record.message else f"{line} request_id={request}"

    def format(self, record: logging.LogRecord) -> str:
        return _hidden(super().format(record), self._secrets)


class _Json(JsonFormatter):
    """time, level, logger, message, request_id, and the ``key=value`` pairs of the message as fields of their own."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(
            ["asctime", "levelname", "name", "message"],
            datefmt=TIME,
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
        self._secrets = secrets

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        if (request := request_id.get()) is not None:
            log_data["request_id"] = request
        for key, value in fields(record).items():
            log_data.setdefault(key, value)

    def format(self, record: logging.LogRecord) -> str:
        return _hidden(super().format(record), self._secrets)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The ``key=value`` pairs of a message, with the values as they were given: numbers stay numbers."""
    template = str(record.msg)
    found: dict[str, Any] = dict(_PLAIN_FIELD.findall(template))
    keys = [match[1] for match in _FIELD.finditer(template.replace("%%", ""))]
    arguments = record.args if isinstance(record.args, tuple) else ()
    if len(keys) == len(arguments):
        for key, value in zip(keys, arguments, strict=True):
            if key:
                found[key] = value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
    return found


def _hidden(line: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, HIDDEN)
    return line
