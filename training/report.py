"""``lhier report``: everything there is to see of a run in one HTML file."""

import logging
from pathlib import Path

from training.report_content import ReportError, gather
from training.report_page import render

logger = logging.getLogger(__name__)


def write_report(
    run: Path,
    page: Path,
    *,
    overrides: tuple[str, ...] = (),
    num_queries: int = 40,
    cache: Path,
    progress: bool = False,
) -> Path:
    """Evaluate ``run`` on its own protocol and write ``page``, one HTML file that refers to nothing outside it.

    Reads recipe, metrics, checkpoint and proxies of the run folder, and the photos. Written whole or not at all.
    Raises :class:`ReportError`, ``RecipeError``, ``DataError``, ``CheckpointError`` and ``ImageError``.
    """
    report = gather(run, overrides=overrides, num_queries=num_queries, cache=cache, progress=progress)
    text = render(report)
    staging = page.with_name(f".{page.name}.writing")
    try:
        staging.write_text(text, encoding="utf-8")
        staging.replace(page)
    except OSError as error:
        raise ReportError(f"{page} cannot be written: {error.strerror}") from error
    logger.info("report=%s bytes=%d", page, len(text))
    return page
