"""The ``lhier`` command: a table of commands, each imported when it is asked for.

``lhier --help`` must answer at once, and torch alone takes seconds to import.
"""

import importlib
import os
import signal
import sys

import click

# OpenMP's threads spin while they wait; on a machine that others use too, that triples the work of an inference.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# name -> (module:attribute, the line --help shows)
COMMANDS = {
    "demo": ("lhier.demo:demo", "Draw creatures, train, index and serve them: the whole trip in minutes."),
    "train": ("training.cli:train", "Train an encoder as a recipe says."),
    "evaluate": ("training.cli:evaluate", "Retrieval figures of a run."),
    "report": ("training.tools_cli:report", "A run as one HTML page: curves, neighbours, confusions, the disk."),
    "export": ("training.tools_cli:export", "An encoder as ONNX or OpenVINO, checked against the original."),
    "data": ("training.cli:data", "Make or check photo collections."),
    "embed": ("index.cli:embed", "Photos to points, in Parquet."),
    "index": ("index.cli:index", "Build, check and describe exact indexes."),
    "search": ("index.cli:search", "Neighbours of one photo, in the terminal."),
    "hierarchy": ("index.hierarchy.cli:hierarchy", "The tree over a collection: built, asked, named, drawn."),
    "backend": ("index.backends.cli:backend", "The points in Milvus or PostgreSQL: copied, searched, compared."),
    "snapshot": ("index.snapshot_cli:snapshot", "A collection in one file: taken while it is served, restored whole."),
    "serve": ("service.cli:serve", "REST service and web page over a store."),
    "doctor": ("service.cli:doctor", "What would keep a service from serving well, and what to do about it."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lhier")
def main() -> None:
    """Fine-grained visual search with the hierarchy behind it.

    Photos -> an encoder whose embeddings live in hyperbolic space -> an exact index -> REST.

    \b
    lhier demo                                                  everything, on drawn creatures
    lhier demo --data photos                                    everything, on your own photos
    lhier train folder-lhier-128 --set data.root=photos --out runs/a
    lhier evaluate runs/a
    lhier embed runs/a photos --out points
    lhier index build points --store store
    lhier serve --checkpoint runs/a --store store

    Each command explains itself with --help.
    """
    # As process 1 of a container a command would not notice SIGTERM; and like Ctrl-C it shall leave nothing behind.
    # Training and the server, once it serves, have a stop of their own.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


if __name__ == "__main__":
    sys.exit(main())
