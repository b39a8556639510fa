"""A table as a data set: CSV or Parquet with the columns path, labels and, if wanted, split."""

from pathlib import Path
from typing import Any

from training.data.split import DataError, Photo, RetrievalData, hold_out, label_levels

SPLITS = ("train", "query", "gallery", "validation")


def load_manifest(root: Path, manifest: str) -> RetrievalData:
    """Photos listed in ``manifest`` (relative to ``root``).

    ``path`` is relative to ``root``; ``labels`` is a label path, most general first, as text joined by ``/`` or (in
    Parquet) a list; ``split`` is train, query, gallery or validation. Without ``gallery`` rows the training photos are
    the gallery; without ``split`` a fifth of each class asks. All label paths are equally deep. Raises
    :class:`DataError` naming the row.
    """
    if not manifest:
        raise DataError("data.kind = 'manifest' needs data.manifest: a CSV or Parquet file relative to data.root")
    rows = _read(root / manifest)
    by_split: dict[str, list[Photo]] = {name: [] for name in SPLITS}
    unsplit: list[Photo] = []
    for number, row in enumerate(rows, start=1):
        text, labels, split = row.get("path"), row.get("labels"), row.get("split") or ""
        if not text or not labels:
            raise DataError(f"{manifest}, row {number}: expected path and labels, got {row}")
        path = Path(str(text))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{manifest}, row {number}: expected a path below {root}, got {text}")
        parts = labels if isinstance(labels, list) else str(labels).strip("/").split("/")
        photo = Photo(root / path, tuple(str(part).strip() for part in parts))
        if not split:
            unsplit.append(photo)
        elif split in by_split:
            by_split[split].append(photo)
        else:
            raise DataError(f"{manifest}, row {number}: split {split!r} is none of {', '.join(SPLITS)}")
    name = Path(manifest).stem
    if not any(by_split.values()):
        return hold_out(name, unsplit, "images", 0.2, seed=0)
    if unsplit:
        raise DataError(f"{manifest}: {len(unsplit)} rows name no split while others do, first {unsplit[0].path.name}")
    train, query = tuple(by_split["train"]), tuple(by_split["query"])
    if not train or not query:
        raise DataError(f"{manifest}: expected rows with split train and query, found {len(train)} and {len(query)}")
    gallery = tuple(by_split["gallery"]) or train
    validation = tuple(by_split["validation"])
    label_levels((*train, *query, *gallery, *validation))
    return RetrievalData(name, train, query, gallery, leave_one_out=False, validation=validation)


def _read(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    if not path.is_file():
        raise DataError(f"data.manifest: no file {path}")
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:
            names = {name: pa.string() for name in ("path", "labels", "split")}
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=names))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path.name}: expected CSV with a header or Parquet ({error})") from error
    missing = {"path", "labels"} - set(table.column_names)
    if missing:
        raise DataError(
            f"{path.name}: no column {' and '.join(sorted(missing))}; found {', '.join(table.column_names)}"
        )
    rows: list[dict[str, Any]] = table.select(
        [n for n in ("path", "labels", "split") if n in table.column_names]
    ).to_pylist()
    return rows
