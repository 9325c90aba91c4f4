"""Pictures and frames as arrays of numbers: numpy's, torch's, and whatever can become numpy's."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

from flowcut.errors import InvalidPicture
from flowcut.media.colours import of_16_bits, without_unused_alpha

CHANNELS = (1, 3, 4)
HALF_A_STEP = 0.5 / 255
"""What resizing adds to 0 and 1 may be this much: it is no other picture in 8 bits."""


def as_array(source: Any) -> np.ndarray | None:
    """An array whose channels are last; None: it is no array.

    Args:
        source: a numpy array; a torch tensor, whose channels are first, as torch has them, or last; or what numpy can
            make an array of.

    Raises:
        InvalidPicture: (a ValueError) a tensor that holds no numbers that can be read.
    """
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Image.Image | memoryview) or not hasattr(source, "__array__"):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        return _of_tensor(source)
    try:
        return np.asarray(source)
    except Exception as error:  # another library's
        raise InvalidPicture(
            f"The {type(source).__name__} cannot be made a numpy array: give a numpy array, or a PIL image."
        ) from error


def _of_tensor(tensor: Any) -> np.ndarray:
    try:
        held = tensor.detach().cpu()
        numbers: np.ndarray = (held.float() if held.is_floating_point() else held).numpy()
    except (RuntimeError, TypeError) as error:
        raise InvalidPicture(
            f"The tensor ({tensor.dtype}, on {tensor.device}) cannot be read: give a dense one that holds its numbers, "
            "of uint8, or floats from 0 to 1."
        ) from error
    first = numbers.ndim in (3, 4) and numbers.shape[-3] in CHANNELS
    return np.moveaxis(numbers, -3, -1) if first else numbers


def from_array(array: np.ndarray, given: tuple[int, ...] | None = None) -> tuple[Image.Image, list[str]]:
    """The picture that an array is, of mode L or RGB or RGBA, and what was done to its numbers.

    Args:
        array: [height, width] or [height, width, 1, 3 or 4], of uint8, uint16, bool, or floats from 0 to 1; in any
            order of bytes.
        given: the shape of what it was made of, for the sentence; None: its own.

    Raises:
        InvalidPicture: (a ValueError) it has another shape, another type, or other numbers.
    """
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[-1] in CHANNELS)):
        first = array.ndim == 3 and shape[0] in CHANNELS and array.size
        turn = ", so array.transpose(1, 2, 0)" if first else ""
        raise InvalidPicture(
            f"The array has shape {given or shape}: give [height, width] or [height, width, 3 or 4]{turn}."
        )
    eight_bits, notes = _eight_bits(array)
    image = Image.fromarray(np.ascontiguousarray(eight_bits))
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image, more = without_unused_alpha(image)
        notes += more
    return image, notes


def _eight_bits(array: np.ndarray) -> tuple[np.ndarray, list[str]]:
    kind = array.dtype.name
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255, []
    if array.dtype == np.uint8:
        return np.asarray(array), []
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        eight_bits, note = of_16_bits(array)
        return eight_bits, [note]
    if array.dtype.kind == "f":
        return _of_floats(array), []
    raise InvalidPicture(
        f"The array is of type {kind}: give uint8, uint16, bool, or floats from 0 to 1; numbers from 0 to 255 as "
        "array.astype('uint8')."
    )


def _of_floats(array: np.ndarray) -> np.ndarray:
    kind, low, high = array.dtype.name, float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidPicture(
            f"The {kind} array holds values outside 0 to 1, such as NaN or infinity: replace them, as np.nan_to_num "
            "does, and scale it to 0 to 1."
        )
    if low < -HALF_A_STEP or high > 1 + HALF_A_STEP:
        raise InvalidPicture(
            f"The {kind} array holds values outside 0 to 1, from {low:.4g} to {high:.4g}: scale it to 0 to 1, or give "
            "uint8."
        )
    eight_bits: np.ndarray = (np.clip(array, 0, 1).astype(np.float64) * 255).round().astype(np.uint8)
    return eight_bits
