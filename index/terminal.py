"""What the commands share: failures that are expected in one line, and progress."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LINE_SECONDS = 10


@contextmanager
def plain_errors(*more: type[Exception]) -> Iterator[None]:
    """Failures that are expected become one line and exit code 1."""
    from index.errors import FaissMissingError, PointError, StoreError

    expected: tuple[type[Exception], ...] = (StoreError, PointError, FaissMissingError, OSError, *more)
    try:
        yield
    except expected as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the rate and the time left on a terminal, a line now and then elsewhere; on stderr, so that stdout
    stays the answer.

    Called with (done, in all); what was done at the first call does not count in the rate.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(unit=" photos", desc=what) as bar:

            def draw(done: int, total: int) -> None:
                if bar.total is None:
                    bar.reset(total)
                    bar.initial = bar.n = done
                bar.update(done - bar.n)

            yield draw
        return
    first: int | None = None
    start = last = time.monotonic()

    def write(done: int, total: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first is None:
            first = done
        if now - last < LINE_SECONDS and done != total:
            return
        last = now
        rate = (done - first) / max(now - start, 1e-3)
        left = f", {_spoken((total - done) / rate)} left" if rate and done != total else ""
        click.echo(f"{what}: {done} of {total} photos, {rate:.1f} a second{left}", err=True)

    yield write


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
