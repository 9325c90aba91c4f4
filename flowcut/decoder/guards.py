"""What a cut inside a language model refuses: settings it cannot carry out, and a cache that was cut."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NoReturn

from flowcut.criteria import METHODS
from flowcut.criteria.positions import RENUMBERED
from flowcut.cut import CutConfig
from flowcut.decoder.locate import LanguageDecoder
from flowcut.errors import FlowCutError, InvalidCut


def check_cut(cut: CutConfig | None, layer: int, decoder: LanguageDecoder) -> None:
    """Refuse what cannot be done in this decoder.

    Args:
        cut: what is wanted; None: to record only.
        layer: FlowCut's decoder layer, from 0.
        decoder: the one to be cut.

    Raises:
        InvalidCut: one sentence.
    """
    n_layers = len(decoder.layers)
    if cut is not None and not cut.by_flowcut and METHODS[cut.method].decoder is None:
        others = ", ".join(name for name, method in METHODS.items() if method.decoder is not None)
        raise InvalidCut(f"The method {cut.method!r} has no stage in the language model: choose flowcut, {others}.")
    if cut is not None and METHODS[cut.method].decoder is not None and n_layers < 2:
        raise InvalidCut("The language model has a single layer, and tokens go between two: there is nothing to cut.")
    if cut is not None and cut.positions == RENUMBERED and decoder.positions_are_places:
        raise InvalidCut(
            "This language model numbers visual tokens by time, row and column, which have no gaps to close: leave "
            "positions out, or say kept."
        )
    if isinstance(layer, bool) or not isinstance(layer, Integral) or not 0 <= layer < n_layers:
        raise InvalidCut(
            f"layer is {layer!r} and the language model has {n_layers} layers: choose 0 to {n_layers - 1}."
        )


def seal(cache: Any, layer: int) -> None:
    """Let nobody go on with a cache that was cut: without the recording it would be read at wrong positions.

    Args:
        cache: the decoder's.
        layer: the first that was cut.
    """

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise FlowCutError("This cache was filled under a cut whose with was left: go on decoding inside the with.")

    for cut in cache.layers[layer : layer + 1]:
        cut.update = refuse
