"""What becomes of the positions of tokens when others are taken away: the rotary embedding reads them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from flowcut.errors import FlowCutError

Positions = Literal["kept", "renumbered"]
"""`kept`: each token has the position that it has in the full prompt, and the gaps stay. `renumbered`: tokens are
counted anew without gaps, so that all behind a gap move closer to the start."""
POSITIONS: tuple[Positions, ...] = get_args(Positions)
KEPT, RENUMBERED = POSITIONS


def known_positions(value: Any, error: type[FlowCutError] = FlowCutError) -> Positions:
    """The value, if it is one of the two.

    Raises:
        FlowCutError: (or the `error` that is given) it is another.
    """
    if value not in POSITIONS:
        raise error(f"positions is {value!r}: choose kept (as in the full prompt) or renumbered (without gaps).")
    found: Positions = value
    return found
