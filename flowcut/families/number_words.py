"""Small numbers in English words, as the prompts of SmolVLM2 say how many frames a video has."""

from __future__ import annotations

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """A number from 0 to 999, as the package num2words says it: `twenty-one`, `one hundred and five`.

    Raises:
        ValueError: it is another number.
    """
    if not 0 <= number < 1000:
        raise ValueError(f"The number is {number}: only 0 to 999 are known in words.")
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return f"{ONES[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
