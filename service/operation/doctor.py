"""Doctor: what would keep the service from serving well, found before somebody else does."""

import importlib.metadata
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from index.build import verify_collection
from index.catalogue import Catalogue
from index.collection import Collection, collection_folder, list_collections
from index.distances import distances
from index.errors import FaissMissingError, SnapshotError, StoreError
from index.hierarchy.store import FOLDER, TREE
from index.hierarchy.tree import Hierarchy
from index.snapshot import list_generations, read_generation
from service.operation.quotas import folder_bytes
from service.server import PortInUseError, bind
from service.settings import Settings, is_loopback

Verdict = Literal["ok", "warn", "FAIL"]

PACKAGES = ("lhier", "torch", "timm", "fastapi", "starlette", "uvicorn", "numpy", "pillow", "openvino", "onnxruntime")
LEAST_PYTHON = (3, 11)
AGREEMENT = 1e-2
"""Geodesic distance that the runtime's point of a drawn scene may have from torch's; with bf16, of another order."""
AGREEMENT_BF16 = 1.0
SAMPLED_PHOTOS = 50
ROOM = 2.0
"""Free disk that a rebuild or a snapshot may take, in sizes of the store."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands, and what to do where it does not stand well."""

    check: str
    verdict: Verdict
    detail: str
    action: str = ""


def examine(settings: Settings, *, deep: bool = False) -> Iterator[Finding]:
    """Look at everything that ``settings`` name, one finding after the other; changes nothing.

    ``deep`` reads every stored item and checks it, and searches against all distances, which takes its time.
    """
    for part in (_python, _packages, _faiss):
        yield from _guarded(part)
    model: list[str] = []
    yield from _guarded(_checkpoint, settings, model)
    for check in (_store, _disk):
        yield from _guarded(check, settings)
    for name in settings.collections or list_collections(settings.store):
        yield from _guarded(_collection, settings, name, model, deep)
    for check in (_port, _keys):
        yield from _guarded(check, settings)


def _guarded(check: Callable[..., Iterator[Finding]], *arguments: Any) -> Iterator[Finding]:
    """A check that breaks is a finding, and the others go on."""
    try:
        yield from check(*arguments)
    except Exception as error:
        yield Finding(check.__name__.strip("_"), "FAIL", f"{type(error).__name__}: {error}", "see the detail")


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= LEAST_PYTHON:
        yield Finding("python", "ok", version)
    else:
        yield Finding("python", "FAIL", version, "install Python 3.11 or later")


def _packages() -> Iterator[Finding]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    yield Finding("packages", "ok", ", ".join(found))
    extra = importlib.metadata.packages_distributions().get("faiss", [])
    if len(set(extra)) > 1:
        yield Finding("packages", "FAIL", f"{' and '.join(sorted(set(extra)))} install the same module",
                      "pip uninstall both, then install one")  # fmt: skip


def _faiss() -> Iterator[Finding]:
    from index.faiss_library import faiss

    try:
        library = faiss()
    except FaissMissingError as error:
        yield Finding("faiss", "FAIL", "not installed", str(error))
        return
    yield Finding("faiss", "ok", f"{library.__version__} ({library.get_compile_options().strip() or 'generic'})")


def _checkpoint(settings: Settings, model: list[str]) -> Iterator[Finding]:
    """Appends the model's hash to ``model``."""
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.embedder import DeviceError, Embedder
    from hyperbolic.graph import ExportError
    from service.encoder.selfcheck import scene

    chosen = settings.inference
    try:
        embedder = Embedder.load(settings.checkpoint, device=chosen.device)
    except (CheckpointError, DeviceError) as error:
        yield Finding("checkpoint", "FAIL", str(error), "give the folder of a checkpoint, or of a run that holds one")
        return
    model.append(embedder.model_hash)
    yield Finding("checkpoint", "ok", f"model {embedder.model_hash} ({embedder.backbone}, d={embedder.embedding_dim})")
    runtime = ("openvino" if chosen.device == "cpu" else "torch") if chosen.runtime == "auto" else chosen.runtime
    photo = Image.open(io.BytesIO(scene()))
    point = embedder.embed([photo])
    try:
        embedder.use(runtime, precision=chosen.precision)
        other = embedder.embed([photo])
    except (ExportError, DeviceError) as error:
        yield Finding("runtime", "FAIL", f"{runtime}: {error}", "choose another with --runtime, torch always works")
        return
    apart = float(distances(point.astype(np.float64), other[None].astype(np.float64), embedder.c)[0, 0])
    bound = AGREEMENT_BF16 if chosen.precision == "bf16" else AGREEMENT
    detail = f"{runtime} on {chosen.device}: {apart:.2g} from torch's point, {bound:g} allowed"
    if apart <= bound:
        yield Finding("runtime", "ok", detail)
    else:
        yield Finding("runtime", "FAIL", detail, "choose another with --runtime, and report this")


def _store(settings: Settings) -> Iterator[Finding]:
    store = settings.store
    if not store.is_dir():
        yield Finding("store", "FAIL", f"no folder at {store}", "run 'lhier index build', or make the folder")
        return
    if not os.access(store, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("store", "FAIL", f"user {os.getuid()} may not read and write {store}",
                      f"chown -R {os.getuid()} {store}")  # fmt: skip
        return
    names = settings.collections or list_collections(store)
    if names:
        yield Finding("store", "ok", f"{store}: {len(names)} collections")
    else:
        yield Finding("store", "warn", f"{store} holds no collection yet", "run 'lhier index build', or PUT one")


def _disk(settings: Settings) -> Iterator[Finding]:
    if not settings.store.is_dir():
        return
    held, free = folder_bytes(settings.store), shutil.disk_usage(settings.store).free
    quotas = settings.quotas
    detail = f"{free:,} bytes free, the store takes {held:,}"
    if free < quotas.free_disk_bytes:
        yield Finding("disk", "FAIL", f"{detail}: writes are refused below {quotas.free_disk_bytes:,}", "make room")
    elif free < ROOM * held:
        yield Finding("disk", "warn", detail, "make room: a rebuild and a snapshot take as much again each")
    else:
        yield Finding("disk", "ok", detail)
    if quotas.store_bytes is not None and held > 0.9 * quotas.store_bytes:
        yield Finding("quota", "warn", f"the store takes {held:,} of {quotas.store_bytes:,} bytes",
                      "delete something, or raise quotas.store_bytes")  # fmt: skip


def _collection(settings: Settings, name: str, model: list[str], deep: bool) -> Iterator[Finding]:
    title = f"collection {name}"
    folder = collection_folder(settings.store, name)
    if not folder.is_dir():
        yield Finding(title, "FAIL", "the store has none of that name", f"known: {list_collections(settings.store)}")
        return
    rebuild = f"run 'lhier index rebuild {settings.store} --collection {name}'"
    try:
        with Catalogue.open(folder / "catalogue.sqlite") as catalogue:
            count, found = catalogue.count(), catalogue.model_hash
            if model and found != model[0]:
                yield Finding(title, "FAIL", f"{count:,} items of model {found}, the checkpoint is {model[0]}",
                              "serve it with its own checkpoint, or embed it again")  # fmt: skip
            else:
                yield Finding(title, "ok", f"{count:,} items of model {found}")
            index = list(_generation(title, folder, catalogue, rebuild))
            yield from index
            yield from _tree(title, folder, catalogue, settings)
        if all(finding.verdict == "ok" for finding in index):  # opening it would build it anew
            yield from _photos(title, settings, name)
    except StoreError as error:
        yield Finding(title, "FAIL", str(error), "restore a snapshot: 'lhier snapshot restore'")
        return
    for check in verify_collection(settings.store, name) if deep else ():
        verdict: Verdict = "ok" if check.ok else "FAIL"
        action = "" if check.ok else "restore a snapshot" if check.name == "catalogue" else rebuild
        yield Finding(f"{title}: {check.name}", verdict, check.detail, action)


def _generation(title: str, folder: Path, catalogue: Catalogue, rebuild: str) -> Iterator[Finding]:
    paths = list_generations(folder / "generations")
    for number, path in enumerate(paths):
        try:
            generation = read_generation(path, catalogue)
        except SnapshotError as error:
            if number + 1 < len(paths):
                yield Finding(f"{title}: index", "warn", str(error), "an older one takes over, and is brought up")
            continue
        behind = catalogue.sequence - generation.sequence
        detail = f"{path.name} is whole, {behind} writes behind the catalogue, replayed when it is opened"
        yield Finding(f"{title}: index", "ok", detail)
        return
    what = "no saved index is whole" if paths else "there is no saved index"
    yield Finding(f"{title}: index", "warn", f"{what}: it is built at each start, which takes time", rebuild)


def _tree(title: str, folder: Path, catalogue: Catalogue, settings: Settings) -> Iterator[Finding]:
    if not (folder / FOLDER / TREE).is_dir():
        return
    try:
        tree = Hierarchy.load(folder / FOLDER, catalogue)
    except StoreError as error:
        yield Finding(f"{title}: tree", "FAIL", str(error), f"run 'lhier hierarchy build {settings.store}'")
        return
    yield Finding(f"{title}: tree", "ok", f"{len(tree)} nodes")


def _photos(title: str, settings: Settings, name: str) -> Iterator[Finding]:
    """A sample from all over the collection."""
    with Collection.open(settings.store, name, image_root=settings.image_root) as collection:
        looked, lost = 0, []
        for row in np.unique(np.linspace(0, max(0, collection.count - 1), SAMPLED_PHOTOS).astype(int)):
            for item in collection.items(after=int(row), limit=1):
                try:
                    path = collection.image_path(item)
                except StoreError as error:
                    lost.append(str(error))
                    continue
                if path is None:
                    continue
                looked += 1
                if not os.access(path, os.R_OK):
                    lost.append(f"{path} may not be read")
    if lost:
        yield Finding(f"{title}: photos", "warn", f"{len(lost)} of {looked + len(lost)} are not there: {lost[0]}",
                      "give the folder they lie in now with --image-root")  # fmt: skip
    elif looked:
        yield Finding(f"{title}: photos", "ok", f"{looked} looked for, all there")
    else:
        yield Finding(f"{title}: photos", "ok", "its items were stored without photos")


def _port(settings: Settings) -> Iterator[Finding]:
    try:
        bind(settings.host, settings.port).close()
    except PortInUseError as error:
        yield Finding("port", "warn", str(error), "it is in use, by the service itself when that is running")
    else:
        yield Finding("port", "ok", f"{settings.host}:{settings.port} can be listened on")


def _keys(settings: Settings) -> Iterator[Finding]:
    auth = settings.auth
    beyond = not is_loopback(settings.host)
    if auth.keyless and beyond:
        yield Finding("keys", "warn", f"whoever reaches {settings.host} may do everything: allow_anonymous is set",
                      "set LHIER_AUTH__READ_KEY and LHIER_AUTH__WRITE_KEY")  # fmt: skip
    elif auth.keyless:
        yield Finding("keys", "ok", "none, and only this machine can connect")
    elif auth.write_key is None:
        yield Finding("keys", "ok", "a read key: nobody may change anything")
    elif auth.read_key is None:
        yield Finding("keys", "warn", "a write key only: anyone may read", "set LHIER_AUTH__READ_KEY")
    elif auth.read_key == auth.write_key:
        yield Finding("keys", "warn", "read and write key are the same", "set two different ones")
    else:
        yield Finding("keys", "ok", "a read key and a write key")
    if auth.former_read_keys or auth.former_write_keys:
        yield Finding("keys", "warn", "former keys are still taken", "remove them when every client has its new one")
