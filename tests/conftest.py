"""For all tests: nothing is fetched, whatever machine they run on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read by the hub's client when it is first imported, hence before any test module

from flowcut.media.torchvision_ops import watch_for_torchvision

watch_for_torchvision()  # before any test module brings in transformers

pytest.register_assert_rewrite("tests.invariants")  # its assertions tell as much as those of the tests


@pytest.fixture(autouse=True)
def main_module_stays() -> Iterator[None]:
    """Streamlit makes the script that it runs the main module, which later processes of a test would run again."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before
