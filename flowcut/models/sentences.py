"""Words for sentences: another library's error, the size of files."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten


def reason(error: BaseException) -> str:
    """The first sentence of another library's error, to stand in brackets in ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shorten(lines[0].split(". ")[0].rstrip(".:"), width=200, placeholder=" ...")


def gigabytes(files: list[Path]) -> str:
    """The size of files in words."""
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
