"""Lines of the log: whose request they are about, and what must not stand in them."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from service.engine import Engine
from service.operation.logs import fields, formatter
from service.server import running_server
from service.settings import Settings

from .conftest import draw, encoded

# Their words have letters that no hexadecimal id has.
READ, WRITE, WRONG = 'read"key/ä 1', "write key vwxyz", "a wrong key 99"


@contextmanager
def written(style: str, secrets: tuple[str, ...] = (), level: int = logging.DEBUG) -> Iterator[io.StringIO]:
    """What every logger says meanwhile."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(style, secrets))  # type: ignore[arg-type]
    handler.addFilter(lambda record: not record.name.startswith("http"))  # the client's, in this process
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("service.test", logging.INFO, __file__, 1, message, arguments, None)


def test_the_pairs_of_a_message_become_fields() -> None:
    found = fields(record("event=done count=%d share=%.1f name=%s path=%r fixed=yes", 3, 0.25, "a b=c", "/x"))
    assert found == {"event": "done", "count": 3, "share": 0.25, "name": "a b=c", "path": "/x", "fixed": "yes"}
    assert fields(record("100%% of %s are plain words")) == {}
    line = json.loads(formatter("json").format(record("event=done count=%d", 3)))
    assert (line["event"], line["count"], line["level"], line["logger"]) == ("done", 3, "INFO", "service.test")
    assert line["message"] == "event=done count=3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", line["time"])


def test_a_line_of_json_stays_one_line() -> None:
    line = formatter("json").format(record("event=odd text=%s", 'a\nb\u2028c"'))
    assert "\n" not in line
    assert json.loads(line)["text"] == 'a\nb\u2028c"'


@pytest.mark.parametrize("style", ["text", "json"])
def test_every_line_of_a_request_bears_its_id(engine: Engine, settings: Settings, style: str) -> None:
    """Those written in threads for it as well, and none written for another."""

    def search(*_: object, **__: object) -> None:
        logging.getLogger("service.test").info("event=in_a_thread")
        raise RuntimeError("broken for the test")

    with (
        written(style, level=logging.INFO) as log,  # outermost: a line may come after its answer
        running_server(settings, engine) as url,
        pytest.MonkeyPatch.context() as patch,
        httpx.Client(base_url=url) as client,
    ):
        client.get("/v1/info", headers={"X-Request-ID": "first"})
        patch.setattr("service.engine.Engine.item", search)
        client.get("/v1/collections/default/items/Fruit", headers={"X-Request-ID": "second"})
    lines = [line for line in log.getvalue().splitlines() if re.search(r"event=(request|in_a_thread|unhandled)", line)]
    ids = [json.loads(line)["request_id"] if style == "json" else line.partition("request_id=")[2].split()[0]
           for line in lines]  # fmt: skip
    assert ids == ["first", "second", "second", "second"]
    if style == "json":
        assert json.loads(lines[0])["status"] == 200
        assert "broken for the test" in json.loads(lines[2])["exc_info"]


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_key_and_no_photo(engine: Engine, with_settings: Callable[..., Settings], style: str) -> None:
    settings = with_settings(auth={"read_key": READ, "write_key": WRITE, "former_read_keys": ["former key 1"]})
    photo = encoded(draw(1))
    read, write, quoted = READ.encode(), WRITE.encode(), f"collections/{READ.replace('/', '%2F')}"
    with written(style, settings.auth.secrets()) as log, running_server(settings, engine) as url:
        for headers in (
            {"X-API-Key": read}, {"Authorization": b"Bearer " + write},
            {"X-API-Key": WRONG}, {"X-Request-ID": "former"},
            {"Cookie": b"key=" + write, "User-Agent": write, "Referer": b"http://x/?key=" + write},
        ):  # fmt: skip
            for path in ("info", f"info?key={WRITE}", f"collections/{WRITE}", "collections/former key 1", quoted):
                httpx.get(f"{url}/v1/{path}", headers=headers)
            httpx.post(f"{url}/v1/search", files={"file": photo}, headers=headers)
            httpx.post(f"{url}/v1/search", files={"file": photo[:200]}, headers=headers)
    text = log.getvalue()
    assert text.count("event=request") == 35
    assert "status=401" in text
    assert "status=200" in text
    for secret in (READ, WRITE, WRONG, "former key 1", "vwxyz", "former%20key%201"):
        assert secret not in text
    assert "?" not in text  # no query strings
    assert photo[100:120].hex() not in text
    assert "PNG" not in text
    assert "\\x89" not in text
