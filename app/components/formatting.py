"""Numbers and text as they appear on the page."""

from __future__ import annotations

import re

BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
FLOP_UNITS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")


def scaled(value: float, units: tuple[str, ...]) -> str:
    """Three digits and a unit, in steps of 1000: 1234567 bytes are `1.23 MB`."""
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    if step == 0:
        return f"{value:.0f} {units[0]}"
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f} {units[step]}"


def duration(seconds: float) -> str:
    """Milliseconds below one second, then seconds, then minutes."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min"


def change(value: float, reference: float) -> str:
    """A value against its reference in percent, with its sign: `−89%`; empty where there is nothing to compare with."""
    if not reference or value == reference:
        return ""
    percent = 100 * (value / reference - 1)
    return f"{'−' if percent < 0 else '+'}{abs(percent):.0f}%"


def signed(value: float, decimals: int = 3, plus: bool = False) -> str:
    """So many decimals, with a true minus sign; `plus`: a difference, which has a sign either way."""
    return f"{value:{'+' if plus and round(value, decimals) else ''}.{decimals}f}".replace("-", "−")


def escape_markdown(text: str) -> str:
    """Text that Streamlit's Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])", r"\\\1", text)
