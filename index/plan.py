"""Which kind of index a collection gets, and why; what it was built with; when it should be built anew."""

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from index.distances import Float64
from index.files import write_json

logger = logging.getLogger(__name__)

Kind = Literal["flat", "ivf", "ivf_sq8"]
Request = Literal["auto", "flat", "ivf", "ivf_sq8"]
REQUESTS: tuple[Request, ...] = ("auto", "flat", "ivf", "ivf_sq8")

REQUEST_FILE = "index_request.json"
FLAT_UP_TO = 20_000  # points: a scan of all takes about a millisecond
LARGEST_RADIUS = 12.0  # in units of 1/sqrt(c): beyond it the coordinates in a list's frame lose float32's digits
SMALLEST_LIST = 39  # points that a list is worth having for
OUTGROWN = 2.0  # times the points, or the imbalance of the lists, that an index was built for
EMPTY_SHARE = 0.25  # of all positions


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, and what became of it."""

    requested: Request = "flat"
    memory: int | None = None  # bytes that the index may hold
    requested_nlist: int | None = None
    requested_nprobe: int | None = None
    kind: Kind = "flat"
    reason: str = "asked for"
    count: int = 0  # points it was built from
    nlist: int = 0
    nprobe: int = 0  # for k = 10
    spare: int = 0  # candidates beyond k that are re-ranked, for k = 10; 0: as the generator says
    recall: float | None = None  # at 10, of a sample of stored points, themselves left out
    imbalance: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`as_dict` gave; TypeError for other names."""
        return cls(**values)

    def request(self) -> dict[str, Any]:
        """The arguments of :meth:`LorentzIndex.build` that this plan came from."""
        return {
            "kind": self.requested, "memory": self.memory,
            "nlist": self.requested_nlist, "nprobe": self.requested_nprobe,
        }  # fmt: skip


def write_request(folder: Path, request: dict[str, Any]) -> None:
    """Keep with a collection what :meth:`LorentzIndex.build` was asked for, so that rebuilds ask for the same."""
    write_json(folder / REQUEST_FILE, request)


def read_request(folder: Path) -> dict[str, Any]:
    """What :func:`write_request` kept; kind "auto" where there is none, or it cannot be read."""
    request = Plan(requested="auto").request()
    try:
        kept = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
        if kept.keys() != request.keys() or kept["kind"] not in REQUESTS:
            raise ValueError(f"expected {sorted(request)}, got {kept!r:.200}")
        numbers = [kept[name] for name in ("memory", "nlist", "nprobe")]
        if any(number is not None and not (isinstance(number, int) and number >= 1) for number in numbers):
            raise ValueError(f"expected whole numbers >= 1 or null, got {kept!r:.200}")
    except FileNotFoundError:
        return request
    except (OSError, ValueError, AttributeError, TypeError) as error:
        logger.warning("event=request_unreadable folder=%s error=%r kind=auto", folder, str(error))
        return request
    return dict(kept)


def is_quick(request: dict[str, Any], count: int) -> bool:
    """Whether an index as asked for is built in a moment: lists of many points are not, they must be learnt."""
    return request["kind"] == "flat" or count <= FLAT_UP_TO


def choose(requested: Request, count: int, dim: int, radii: Float64, memory: int | None) -> tuple[Kind, str]:
    """The kind for `count` points of dimension `dim` with `radii` (n,) in units of 1/sqrt(c), and the reason.

    `memory`: bytes that the index may hold; exact points do not count, they stay in their file.
    """
    if requested not in REQUESTS:
        raise ValueError(f"expected kind {', '.join(map(repr, REQUESTS))}, got {requested!r}")
    if requested == "flat":
        return "flat", "asked for"
    if not count:
        return "flat", "there are no points to learn lists from yet"
    farthest = float(np.max(radii))
    if requested != "auto":
        return requested, "asked for"
    if farthest > LARGEST_RADIUS:
        return "flat", f"points lie at radius {farthest:.1f}, beyond {LARGEST_RADIUS:g} lists have no digits left"
    size = {kind: estimated_bytes(kind, count, dim) for kind in ("flat", "ivf", "ivf_sq8")}
    within = {kind: memory is None or size[kind] <= memory for kind in size}
    if count <= FLAT_UP_TO and within["flat"]:
        return "flat", f"{count} points, up to {FLAT_UP_TO} a scan of all takes about a millisecond"
    if memory is None:
        return "ivf", f"{count} points are more than a scan of all is quick for, and no memory budget was given"
    if within["ivf"]:
        return "ivf", f"{count} points take {_megabytes(size['ivf'])} in lists, {_megabytes(memory)} are allowed"
    fits = "which fit" if within["ivf_sq8"] else "the least there is, though that is more still"
    return "ivf_sq8", (
        f"{count} points take {_megabytes(size['ivf'])} in float32 lists, {_megabytes(memory)} are allowed: "
        f"{_megabytes(size['ivf_sq8'])} in 8 bits, {fits}"
    )


def estimated_bytes(kind: str, count: int, dim: int) -> int:
    """What an index holds in memory, ids included; exact points in their file do not count."""
    lists = 8 * default_nlist(count) * (dim + 1)
    point = {"flat": 4 * dim + 12, "ivf": 4 * dim + 20, "ivf_sq8": dim + 17}[kind]
    return count * point + lists * (kind != "flat")


def default_nlist(count: int) -> int:
    """4 sqrt(n) lists, but of 39 points or more."""
    return max(1, min(round(4 * math.sqrt(count)), count // SMALLEST_LIST))


def outgrown(plan: Plan, count: int, positions: int, imbalance: float) -> str | None:
    """Why an index of `count` points in `positions` places should be built anew; None while it need not be."""
    if plan.kind == "flat":
        grown = plan.requested != "flat" and count > max(FLAT_UP_TO, OUTGROWN * plan.count)
        return f"it was built flat for {plan.count} points and holds {count}" if grown else None
    if count > OUTGROWN * plan.count:
        return f"its lists were learnt from {plan.count} points and hold {count}"
    if positions - count > max(EMPTY_SHARE * positions, 1000):
        return f"{positions - count} of {positions} positions are empty"
    if imbalance > OUTGROWN * plan.imbalance and count >= plan.count / OUTGROWN:
        return f"the lists' imbalance went from {plan.imbalance:.2f} to {imbalance:.2f}"
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
