"""Pictures of the page, to be looked at: every view on a phone and a desktop, light and dark, of a running service.

``python -m tests.service.screenshots http://127.0.0.1:8000 FOLDER [PHOTO ...] [--only NAME]``. The photos are searched
from, the first alone and all together.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 375, "height": 812}}
HIT = "#hits[aria-busy=false] .tile img.ready"
PAUSE_MS = 900  # for photos and the map's fading


def _start(page: "Page") -> None:
    page.wait_for_selector("#samples img.ready")


def _search(page: "Page", photos: tuple[Path, ...]) -> None:
    page.set_input_files("#file", [str(photo) for photo in photos])
    page.wait_for_selector(HIT)
    page.wait_for_selector("#path:not([hidden]), #no-tree:not([hidden])")


def _zoomed(page: "Page", photo: Path) -> None:
    _search(page, (photo,))
    page.click("#zoom-out")
    page.wait_for_selector("#zoomed:not([hidden])")
    page.wait_for_selector(HIT)


def _filtered(page: "Page", photo: Path) -> None:
    _search(page, (photo,))
    page.click("#filters summary")
    page.fill("#filter-path", "Nowhere")
    page.click("#filter-form .primary")
    page.wait_for_selector("#hits .empty")
    page.click("#filters summary")


def _tree(page: "Page") -> None:
    page.click("#nav-tree")
    page.wait_for_selector("#tree-list [role=treeitem] [role=treeitem]")


def _node(page: "Page") -> None:
    _tree(page)
    page.click("#tree-list [role=group] .row >> nth=0")
    page.wait_for_selector("#node-items[aria-busy=false] img.ready")


def _disk(page: "Page") -> None:
    page.click("#nav-disk")
    page.wait_for_selector("#disk-labels button:not([hidden])")
    page.wait_for_timeout(2 * PAUSE_MS)


def _marked(page: "Page", photo: Path) -> None:
    _search(page, (photo,))
    _disk(page)
    page.focus("#disk-labels button:not([hidden]) >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2 * PAUSE_MS)


def _broken(page: "Page") -> None:
    page.goto(page.url.split("#")[0] + "#item=no%20such%20photo")
    page.wait_for_selector("#problem:not([hidden])")


def views(photos: tuple[Path, ...]) -> dict[str, Callable[["Page"], None]]:
    """What is done for each picture; without photos, only what needs none."""
    found: dict[str, Callable[[Page], None]] = {"start": _start, "tree": _tree, "node": _node, "disk": _disk}
    if photos:
        found["results"] = lambda page: _search(page, photos[:1])
        found["zoomed"] = lambda page: _zoomed(page, photos[0])
        found["filtered"] = lambda page: _filtered(page, photos[0])
        found["marked"] = lambda page: _marked(page, photos[0])
    if len(photos) > 1:
        found["several"] = lambda page: _search(page, photos)
    return {**found, "problem": _broken}


@click.command()
@click.argument("address")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--only", multiple=True, help="These views alone.")
@click.option("--whole", is_flag=True, help="The whole page, not what fits on the screen.")
def main(address: str, folder: Path, photos: tuple[Path, ...], only: tuple[str, ...], whole: bool) -> None:
    """Save pictures of the page at ADDRESS into FOLDER."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for device, size in SIZES.items():
            for scheme in ("light", "dark"):
                for name, prepare in views(photos).items():
                    if only and name not in only:
                        continue
                    context = browser.new_context(
                        viewport=size, color_scheme=scheme, has_touch=device == "phone", is_mobile=device == "phone"
                    )  # type: ignore[arg-type]
                    page = context.new_page()
                    page.on("pageerror", lambda error: click.echo(f"script error: {error}", err=True))
                    page.goto(address)
                    page.wait_for_selector("#nav-tree:not([hidden])")
                    prepare(page)
                    page.wait_for_timeout(PAUSE_MS)
                    page.screenshot(path=folder / f"{name}-{device}-{scheme}.png", full_page=whole)
                    context.close()
                    click.echo(f"{name}-{device}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
