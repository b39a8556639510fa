"""In-Shop Clothes Retrieval, of DeepFashion (Liu et al., CVPR 2016): 52,712 photos of 7,982 articles.

Protocol: ``Eval/list_eval_partition.txt`` names training, query and gallery photos; the gallery holds the same articles
as the queries and other photos of them; recall at 1, 10, 20 and 30. The label path is (MEN or WOMEN, category,
article), as the photos' folders say.
"""

from pathlib import Path

from training.data.official import OfficialDataset, as_number, below, read_rows
from training.data.split import DataError, Photo, RetrievalData

RECALL_AT = (1, 10, 20, 30)
LIST = "Eval/list_eval_partition.txt"
INSHOP = OfficialDataset(
    title="In-Shop Clothes Retrieval",
    page="the DeepFashion page of the CUHK Multimedia Lab (In-shop Clothes Retrieval Benchmark: Eval and img.zip)",
    files=((LIST,), ("img", "Img/img")),
    counts={
        "photos": 52712,
        "train photos": 25882,
        "train classes": 3997,
        "query photos": 14218,
        "query classes": 3985,
        "gallery photos": 12612,
        "gallery classes": 3985,
    },
)


def load_inshop(root: Path) -> RetrievalData:
    """The data set in its published layout, photos in ``img`` or, as in the archive, ``Img/img``.

    Raises :class:`DataError`.
    """
    INSHOP.require(root)
    rows = read_rows(root / LIST, ("image_name", "item_id", "evaluation_status"), header_lines=2)
    announced = as_number((root / LIST).read_text(encoding="utf-8").split(maxsplit=1)[0], f"{LIST}, line 1")
    if announced != len(rows):
        raise DataError(f"{LIST}: line 1 announces {announced} photos, {len(rows)} follow: is the file whole?")
    folder = root / "Img" if (root / "Img/img").is_dir() else root
    parts: dict[str, list[Photo]] = {"train": [], "query": [], "gallery": []}
    category_of: dict[str, tuple[str, ...]] = {}
    for relative, article, status in rows:
        path = below(folder, relative, LIST)
        levels = Path(relative).parts  # img / WOMEN / Dresses / id_00000002 / 02_1_front.jpg
        if len(levels) != 5 or status not in parts:
            raise DataError(
                f"{LIST}: expected img/GENDER/CATEGORY/ITEM/PHOTO, item and train, query or gallery; got "
                f"{relative} {article} {status}"
            )
        # What is right is decided by the article alone; one category each keeps the label paths a tree.
        category = category_of.setdefault(article, levels[1:3])
        parts[status].append(Photo(path, (*category, article)))
    train, query, gallery = (tuple(parts[name]) for name in ("train", "query", "gallery"))
    return RetrievalData(INSHOP.title, train, query, gallery, leave_one_out=False, recall_at=RECALL_AT)
