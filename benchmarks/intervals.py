"""Means over questions with intervals and tests that respect that scenes are shared.

The questions of a scene are not independent of each other: scenes, not questions, are drawn again for the 95 %
intervals (percentile bootstrap of the mean over questions, or of the ratio of two sums), and scenes change sign in the
tests (two-sided, of a paired difference). Where two samples of scenes are compared each is drawn again by itself, and
scenes change sides in the test. Everything works on the sums of each scene, so that a resample is one row of a matrix
product; everything is seeded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.05
PERCENTILES = (2.5, 97.5)
DIGITS = 12

Row = dict[str, float]
"""mean, low, high, p, n: of one number."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One number for each of M names (criteria, ways, types) and each of Q questions of S scenes."""

    names: list[str]
    values: np.ndarray
    """float64 [M, Q]; NaN where it could not be measured, or where the question is none of this name's."""
    scene: np.ndarray
    """int64 [Q], whose scene each question is of."""
    out_of: np.ndarray | None = None
    """float64 [M, Q]: what each value is a part of, for a ratio of sums (facts right out of facts stated); None: each
    question counts as one, and the ratio is the mean over questions."""

    def of(self, chosen: np.ndarray) -> Measured:
        """Some of the questions, bool [Q]."""
        out_of = None if self.out_of is None else self.out_of[:, chosen]
        return Measured(self.names, self.values[:, chosen], self.scene[chosen], out_of)

    def minus(self, baseline: str) -> Measured:
        """The paired difference of every other name to one of them."""
        assert self.out_of is None, "a difference is paired by question; a ratio of sums has none"
        others = [name for name in self.names if name != baseline]
        rows = [self.names.index(name) for name in others]
        return Measured(others, self.values[rows] - self.values[self.names.index(baseline)], self.scene)

    def by_scene(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the questions of each scene of the values, and of what they are out of; float64 [M, S] each."""
        _, scene = np.unique(self.scene, return_inverse=True)
        there = np.isfinite(self.values)
        out_of = np.ones_like(self.values) if self.out_of is None else self.out_of
        parts = (np.where(there, self.values, 0.0), np.where(there, out_of, 0.0))
        sums, counts = (np.stack([np.bincount(scene, row) for row in part]) for part in parts)
        return sums, counts


def summary(measured: Measured) -> dict[str, Row]:
    """By name: the mean over questions with its interval, and p of a two-sided test that it is zero."""
    if not measured.values.size:
        return {}
    sums, counts = measured.by_scene()
    draws, signs = _resamples(sums.shape[1])
    low, high = _interval(_ratio(draws @ sums.T, draws @ counts.T))
    p = _p(signs @ sums.T, sums.sum(axis=1))
    n = np.isfinite(measured.values).sum(axis=1)
    return _rows(measured.names, _ratio(sums.sum(axis=1), counts.sum(axis=1)), low, high, p, n)


def two_samples(first: Measured, second: Measured) -> dict[str, Row]:
    """By name: how much higher the second's mean is, over other scenes; the interval, and p of there being no change.

    Both have the same names. `n` counts the questions of both.
    """
    assert first.names == second.names, "two samples are compared name by name"
    sides = [measured.by_scene() for measured in (first, second)]
    *draws, second_side = _two_resamples(*(sums.shape[1] for sums, _ in sides))
    pairs = zip(draws, sides, strict=True)
    drawn = [_ratio(of_side @ sums.T, of_side @ counts.T) for of_side, (sums, counts) in pairs]
    low, high = _interval(drawn[1] - drawn[0])
    means = [_ratio(sums.sum(axis=1), counts.sum(axis=1)) for sums, counts in sides]
    sums, counts = (np.concatenate(both, axis=1) for both in zip(*sides, strict=True))
    dealt = [_ratio(side @ sums.T, side @ counts.T) for side in (1 - second_side, second_side)]
    p = _p(dealt[1] - dealt[0], means[1] - means[0])
    n = sum(np.isfinite(measured.values).sum(axis=1) for measured in (first, second))
    return _rows(first.names, means[1] - means[0], low, high, p, np.asarray(n))


@lru_cache(maxsize=2)
def _two_resamples(n_first: int, n_second: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each scene of either sample is drawn, and 1 where a scene of both is dealt to the second."""
    of_first, of_second, sides_changed = np.random.default_rng(SEED).spawn(3)
    second = np.zeros((RESAMPLES, n_first + n_second))
    second[:, :n_second] = 1
    return _draws(of_first, n_first), _draws(of_second, n_second), sides_changed.permuted(second, axis=1)


def holm(p: Iterable[float]) -> np.ndarray:
    """Holm's step-down correction: float64, in the order given."""
    raw = np.array(list(p), dtype=float)
    order = np.argsort(raw)
    stepped = np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw))))
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def add_holm(tables: Iterable[dict[str, Row]]) -> None:
    """Give every row of these tables, which are one family of tests, its corrected p as "holm"."""
    cells = [row for rows in tables for row in rows.values()]
    for cell, corrected in zip(cells, holm(cell["p"] for cell in cells), strict=True):
        cell["holm"] = float(corrected)


def _rows(names: list[str], *columns: np.ndarray) -> dict[str, Row]:
    """Rounded far behind what anybody prints: sums in another order, on more threads, then print the same digits."""
    parts = ("mean", "low", "high", "p", "n")
    of_name = zip(names, zip(*(column.round(DIGITS).tolist() for column in columns), strict=True), strict=True)
    return {name: dict(zip(parts, row, strict=True)) for name, row in of_name}


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """NaN where nothing was measured."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def _interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():  # where nothing was measured there is no interval either
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanpercentile(drawn, PERCENTILES, axis=0)
    return low, high


def _p(drawn: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Two-sided: how often chance alone goes as far; what was found counts as one draw."""
    as_far = (np.abs(drawn) >= np.abs(found) - 1e-12).sum(axis=0)
    return np.asarray((1 + as_far) / (1 + RESAMPLES))


def _draws(stream: np.random.Generator, n_scenes: int) -> np.ndarray:
    """float64 [RESAMPLES, S], how often each scene is drawn."""
    drawn = stream.multinomial(n_scenes, np.full(n_scenes, 1 / n_scenes), size=RESAMPLES)
    return np.asarray(drawn, dtype=np.float64)


@lru_cache(maxsize=16)
def _resamples(n_scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each scene is drawn, and the sign it is given; [RESAMPLES, S] each, the same for every table."""
    stream = np.random.default_rng(SEED)
    return _draws(stream, n_scenes), stream.choice([-1.0, 1.0], size=(RESAMPLES, n_scenes))
