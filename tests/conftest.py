"""Shared by all tests: shape checks, thread count, and where the photos lie."""

import os
from pathlib import Path

import hypothesis

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of the maths are checked in tests only.
install_import_hook(["hyperbolic"], "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# The same examples in every run: red means that a change did it. ``--hypothesis-profile=new`` draws others.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("new", deadline=None, derandomize=False)
hypothesis.settings.load_profile("same")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def grocery_root() -> Path:
    """The Grocery Store photos beside the project; a test that needs them skips where they are absent."""
    root = PROJECT.parent / "shared" / "data" / "grocery"
    if not (root / "classes.csv").is_file():
        pytest.skip("the Grocery Store photos are not beside the project")
    return root
