"""Pictures as URLs that hold all of their bytes, for pages and figures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Literal

from PIL.Image import Resampling

if TYPE_CHECKING:
    from PIL.Image import Image


def picture_url(
    picture: Image, side: int | None = None, file_format: Literal["JPEG", "PNG"] = "JPEG", **options: Any
) -> str:
    """A picture as a data URL.

    Args:
        picture: any mode; it is sent as RGB.
        side: the most pixels of its longest side, to which it is made smaller; None: as large as it is.
        file_format: PNG keeps every pixel, JPEG is smaller.
        options: of Pillow's writer, such as `quality`.
    """
    shown = picture.convert("RGB")
    if side is not None:
        shown.thumbnail((side, side), Resampling.LANCZOS)
    file = io.BytesIO()
    shown.save(file, file_format, **options)
    return f"data:image/{file_format.lower()};base64," + base64.b64encode(file.getvalue()).decode()
