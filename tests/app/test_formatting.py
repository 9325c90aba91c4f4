"""Numbers as people read them."""

from __future__ import annotations

import pytest

from flowcut_lens.app.components.formatting import BYTE_UNITS, FLOP_UNITS, change, duration, scaled, signed


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9996, "10.0 kB"), (123456, "123 kB"), (999600, "1.00 MB")],
)
def test_bytes(value: float, shown: str) -> None:
    assert scaled(value, BYTE_UNITS) == shown


def test_flops_end_at_the_largest_unit() -> None:
    assert scaled(2.5e9, FLOP_UNITS) == "2.50 GFLOP"
    assert scaled(4e19, FLOP_UNITS) == "40000 PFLOP"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0 ms"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (61, "61.0 s"), (150, "2.5 min")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_changes() -> None:
    assert change(64, 576) == "−89%"
    assert change(2, 1) == "+100%"
    assert change(5, 5) == ""
    assert change(5, 0) == ""


def test_signed() -> None:
    assert signed(-0.5) == "−0.500"
    assert [signed(value, 2, plus=True) for value in (-0.5, 0.0, 0.5)] == ["−0.50", "0.00", "+0.50"]
