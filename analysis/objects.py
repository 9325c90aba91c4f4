"""Objects that can be taken out of a picture: which patches show one, and how much of each a criterion keeps."""

from __future__ import annotations

import numpy as np

from flowcut.records.vision import Geometry
from flowcut_lens.analysis.truth import patch_coverage

LEAST_CHANGE = 16
"""Of 255: what a pixel changes by, in some channel, where an object or its shadow was and not noise."""
LEAST_SHARE = 0.1
"""Of a patch's pixels, that must change for it to show the object."""


def changed_patches(picture: np.ndarray, without: np.ndarray, geometry: Geometry) -> np.ndarray:
    """int64, ids of the patches that show what is gone from the second picture, its shadow included, ascending.

    Args:
        picture: uint8 [height, width, 3].
        without: the same picture without an object.
        geometry: from patches to the picture.

    Raises:
        ValueError: the pictures are not of one size, or nothing changed.
    """
    if picture.shape != without.shape:
        raise ValueError(
            f"The pictures are {picture.shape} and {without.shape}: give the same picture without an object."
        )
    changed = (np.abs(picture.astype(int) - without.astype(int)) >= LEAST_CHANGE).any(axis=2)
    found = np.flatnonzero(patch_coverage(changed, geometry) >= LEAST_SHARE)
    if not len(found):
        raise ValueError("The two pictures show the same: give the picture without an object that it shows.")
    return found
