"""Editing a mask by hand."""

from __future__ import annotations

import numpy as np
import pytest

from flowcut_lens.analysis.rescue import after_edits, equal_count_swap

BASE = np.array([1, 3, 5])
RANKING = np.array([0.0, 9.0, 4.0, 7.0, 6.0, 8.0, 5.0])


def test_edits_toggle_and_undo() -> None:
    edits = [[0], [3, 4], [3]]
    assert after_edits(BASE, edits).tolist() == [0, 1, 3, 4, 5]
    assert after_edits(BASE, edits[:-1]).tolist() == [0, 1, 4, 5]
    assert after_edits(BASE, []).tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("kept", "toggled"),
    [
        ([1, 3, 5], []),
        ([0, 1, 3, 5], [3]),  # one too many: the lowest ranked that was kept before; 0 was rescued by hand
        ([0, 1, 2, 3, 5], [3, 5]),
        ([1, 3], [4]),  # one too few: 5 was dropped by hand, 4 and 6 are the highest ranked of the cut
        ([1], [4, 6]),
        ([0, 3, 5], []),
    ],
)
def test_a_swap_restores_the_count_and_leaves_edits_alone(kept: list[int], toggled: list[int]) -> None:
    swap = equal_count_swap(BASE, np.array(kept), RANKING)
    assert swap.tolist() == toggled
    assert len(after_edits(np.array(kept), [swap.tolist()])) == len(BASE)


def test_of_equal_ranks_the_first_in_reading_order_is_the_higher() -> None:
    swap = equal_count_swap(np.array([2]), np.array([2, 0]), np.zeros(4))
    assert swap.tolist() == [2]
    assert equal_count_swap(np.array([2, 3]), np.array([2]), np.zeros(5)).tolist() == [0]
