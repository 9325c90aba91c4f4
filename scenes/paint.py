"""The colours that objects are painted with."""

from __future__ import annotations

PAINT: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.12, 0.12),
    "orange": (0.93, 0.47, 0.07),
    "yellow": (0.95, 0.82, 0.16),
    "green": (0.16, 0.62, 0.24),
    "blue": (0.13, 0.32, 0.82),
    "purple": (0.47, 0.18, 0.66),
    "pink": (0.95, 0.52, 0.70),
    "white": (0.94, 0.94, 0.93),
}
"""Linear mix of red, green and blue (0..1) before shading; each object varies by a few hundredths."""
