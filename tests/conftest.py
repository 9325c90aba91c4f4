"""For all tests: nothing is fetched, whatever machine they run on."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read by the hub's client when it is first imported, hence before any test module

from flowcut.media.torchvision_ops import watch_for_torchvision

watch_for_torchvision()  # before any test module brings in transformers

pytest.register_assert_rewrite("tests.invariants")  # its assertions tell as much as those of the tests
