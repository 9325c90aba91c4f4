"""Sizes and times in words."""

from __future__ import annotations

import pytest

from flowcut.models import rate


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1.03e9, "1.03 GB"), (14.1e9, "14.1 GB"), (999.6e6, "1.00 GB")],
)
def test_sizes(size: float, words: str) -> None:
    assert rate.amount(size) == words


def test_a_size_in_the_unit_of_another() -> None:
    assert (rate.amount(4.1e8, like=1.03e9), rate.amount(0, like=400)) == ("0.41", "0")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (89, "89 s"), (90, "2 min"), (3500, "58 min"), (4200, "1 h 10 min"), (86400, "24 h")],
)
def test_times(seconds: float, words: str) -> None:
    assert rate.how_long(seconds) == words


def test_the_rate_is_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(rate.time, "monotonic", lambda: now)
    measured = rate.Rate(1000)
    assert measured.words(1000, 10_000) == "Downloading 1.0 of 10.0 kB"
    now += 2
    assert measured.note(3000) == 1000
    assert measured.words(3000, 10_000) == "Downloading 3.0 of 10.0 kB, 1.00 kB/s, about 7 s left"
    for _ in range(20):
        now += 1
        stalled = measured.words(3000, 10_000)
    assert stalled == "Downloading 3.0 of 10.0 kB, waiting for the network"
