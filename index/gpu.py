"""Scans on a GPU: a copy of what FAISS holds on the CPU proposes the candidates, everything after stays as it is.

Written from the documentation and source of FAISS 1.8 to 1.15; it has not run on a GPU yet (tests/index/test_gpu.py
has what should be tried first). What a GPU does otherwise than the CPU, and what follows for us:

- L2 is always computed as |x|^2 - 2 <x, y> + |y|^2, which loses everything at radius 8.3 (recall .102). So the ball is
  scanned by METRIC_Lp with p = 2, whose kernel takes differences first. Its powf may be 8 ulp off: `SHRINK`.
- Inner products are matrix products in float32: any order of summation, which generator A's bound allows for. TF32 it
  does not (FAISS leaves it off, NVIDIA_TF32_OVERRIDE turns it on). Every copy is therefore measured against float64
  before it is used, and given up where it is too coarse.
- cuVS builds would dispatch to kernels with other rounding, and roots: they are told not to.
- No range search, and filters are passed over in silence (facebookresearch/faiss#3924): those scans stay on the CPU,
  as do those for more than 2,048 candidates.
- One search at a time: GPU resources are not safe for threads, so each copy has a lock.

Lists ("ivf") are served by GpuIndexIVFFlat: it copies the lists as the CPU assigned them, rows and ids, and its
`search_preassigned` scans the list that we name for each query in that list's frame. The frames are entered on the
CPU. Lists of 8 bits stay on the CPU: GPUs decode them in another order of operations, which no bound of ours covers.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from index.errors import DeviceError
from index.faiss_library import faiss, own_method, search_lists, stored_rows

logger = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]
Scores = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

MOST_CANDIDATES = 2048  # FAISS's GPU_MAX_SELECTION_K
ROUNDING = 2.0**-24
SHRINK = 1 - 8 * ROUNDING  # what powf may add to a Euclidean distance: half of 8 ulp (16 ROUNDING) of its square
SAMPLE = 16  # queries, and their candidates, by which a copy is measured
GPU = 0  # the first that CUDA_VISIBLE_DEVICES leaves


def require_device(device: str) -> Device:
    """`device` where it can be had; :class:`DeviceError` otherwise, with what to do."""
    if device == "cpu":
        return "cpu"
    if device != "cuda":
        raise DeviceError(f"expected device 'cpu' or 'cuda', got {device!r}")
    if not hasattr(faiss(), "StandardGpuResources"):
        raise DeviceError(
            "device 'cuda' needs a FAISS with CUDA, the installed one has none: run 'pip uninstall faiss-cpu' and then "
            "'pip install \"lhier[gpu]\"' (never both, they install the same module), or use device 'cpu'"
        )
    if faiss().get_num_gpus() == 0:
        raise DeviceError(
            "device 'cuda' needs a GPU, FAISS (extra [gpu]) finds none: check 'nvidia-smi' and CUDA_VISIBLE_DEVICES, "
            "or use device 'cpu'"
        )
    return "cuda"


class GpuCopy:
    """A GPU's copy of a CPU FAISS index (IndexFlatIP, IndexFlatL2 or IndexIVFFlat), made when it is first searched.

    Every method answers None where the CPU must scan: for too many candidates, and for good once the GPU ran out of
    memory, threw, or proved too coarse, which is logged as a warning once. (An error inside CUDA other than of memory
    makes FAISS end the process: nothing can catch it.)

    Memory on the GPU: the rows (4 bytes a number, and 8 a row), and FAISS's work space of up to 1.5 GB.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._copy: Any = None
        self._given_up = False

    def drop(self) -> None:
        """Forget the copy, because the index is about to change; the next search makes another."""
        with self._lock:
            self._copy = None

    def search(self, queries: Scores, count: int) -> tuple[Scores, Positions] | None:
        """The `count` best rows of a flat index for each query: scores and positions (q, count)."""
        return self._ask(lambda copy: own_method(copy, "search")(queries, count), count)

    def search_lists(self, queries: Scores, lists: Positions, count: int) -> tuple[Scores, Positions] | None:
        """The `count` best rows of one list for each query: queries (n, d), lists (n,) -> (n, count)."""
        return self._ask(lambda copy: search_lists(copy, queries, lists, count, None), count)

    def _ask(
        self, scan: Callable[[Any], tuple[Scores, Positions]], count: int
    ) -> tuple[Scores, Positions] | None:  # fmt: skip
        if count > MOST_CANDIDATES or self._given_up:
            return None
        with self._lock:
            try:
                if self._copy is None:
                    copy = _copied(self._index)
                    _measure(self._index, copy)
                    self._copy = copy
                return scan(self._copy)
            except (RuntimeError, MemoryError) as error:  # what FAISS's exceptions become in Python
                self._copy, self._given_up = None, True
                logger.warning(
                    "event=gpu_given_up count=%d error=%r (searches go on, on the CPU)",
                    self._index.ntotal, str(error).strip(),
                )  # fmt: skip
                return None


def _copied(index: Any) -> Any:
    library = faiss()
    resources = library.StandardGpuResources()  # the index keeps them alive
    if isinstance(index, library.IndexIVF):
        config = library.GpuIndexIVFFlatConfig()
        config.device, config.use_cuvs = GPU, False
        config.flatConfig.device, config.flatConfig.use_cuvs = GPU, False
        return library.GpuIndexIVFFlat(resources, index, config)
    config = library.GpuIndexFlatConfig()
    config.device, config.use_cuvs = GPU, False
    inner = index.metric_type == library.METRIC_INNER_PRODUCT
    copy = library.GpuIndexFlat(
        resources, index.d, library.METRIC_INNER_PRODUCT if inner else library.METRIC_Lp, config
    )  # fmt: skip
    copy.metric_arg = 2.0
    copy.add(stored_rows(index))
    return copy


def _measure(index: Any, copy: Any) -> None:
    """Compare scores of some rows with float64; RuntimeError where they are off by more than the certificates allow."""
    library = faiss()
    rows, positions, of_list = _some_rows(index)
    queries = np.ascontiguousarray(rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)])
    count = min(SAMPLE, len(rows))
    if of_list is None:
        scores, found = own_method(copy, "search")(queries, count)
    else:
        scores, found = search_lists(copy, queries, np.full(len(queries), of_list), count, None)
    order = np.argsort(positions)
    place = order[np.clip(np.searchsorted(positions, found, sorter=order), 0, len(rows) - 1)]
    if not np.array_equal(positions[place], found):
        raise RuntimeError("the GPU's copy answered with rows that it was not asked for")
    near, far = rows[place].astype(np.float64), queries[:, None].astype(np.float64)
    columns = rows.shape[1]
    if index.metric_type == library.METRIC_INNER_PRODUCT:
        truth, allowed = (near * far).sum(-1), (columns + 3) * ROUNDING * np.abs(near * far).sum(-1)
    else:
        truth = np.square(near - far).sum(-1)
        allowed = (columns + 20) * ROUNDING * truth
    error = np.abs(scores - truth)
    # The smallest numbers may be flushed to zero; NaN is no score either.
    if not (error <= allowed + columns * np.finfo(np.float32).tiny).all():
        raise RuntimeError(
            f"the GPU's scores are off by {np.nanmax(error / np.maximum(np.abs(truth), 1e-30)):.1e} of their size, "
            f"more than float32 products are: is NVIDIA_TF32_OVERRIDE set?"
        )


def _some_rows(index: Any) -> tuple[Scores, Positions, int | None]:
    """Rows, their positions, and the list that holds them: of the longest list, or all of a flat index."""
    library = faiss()
    if not isinstance(index, library.IndexIVF):
        return stored_rows(index), np.arange(index.ntotal), None
    lists = index.invlists
    longest = max(range(index.nlist), key=lists.list_size)
    size = lists.list_size(longest)
    codes = library.rev_swig_ptr(lists.get_codes(longest), size * index.code_size)
    positions = np.array(library.rev_swig_ptr(lists.get_ids(longest), size), dtype=np.int64)
    return codes.view(np.float32).reshape(size, index.d), positions, longest
