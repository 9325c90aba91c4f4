"""PaliGemma with Gemma and with Gemma 2: a prompt that is read in both directions."""

from __future__ import annotations

from tests.families.laws import Laws


class TestPaliGemma(Laws):
    kind = "PaliGemma"
    suffix_type = 1


class TestPaliGemma2(Laws):
    kind = "PaliGemma2"
    suffix_type = 1
