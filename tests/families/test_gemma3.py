"""Gemma 3: squares of patches averaged into tokens that see each other both ways."""

from __future__ import annotations

from tests.families.laws import Laws


class TestGemma3(Laws):
    kind = "Gemma3"
