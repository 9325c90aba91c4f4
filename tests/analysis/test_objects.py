"""Objects taken out of a picture: the patches that show them."""

from __future__ import annotations

import numpy as np
import pytest

from flowcut_lens.analysis.objects import changed_patches
from tests.analysis import synthetic


def test_patches_that_changed_by_hand() -> None:
    geometry = synthetic.square_geometry(80, 80, 8)
    picture = np.full((80, 80, 3), 100, np.uint8)
    without = picture.copy()
    without[10:20, 30:52, 1] = 140
    without[60:80] += 5  # noise
    assert changed_patches(picture, without, geometry).tolist() == [11, 12, 13]
    with pytest.raises(ValueError, match="show the same"):
        changed_patches(picture, picture, geometry)
    with pytest.raises(ValueError, match="the same picture without"):
        changed_patches(picture, without[:40], geometry)
