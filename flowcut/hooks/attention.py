"""Seeing the attention of a model: our attention function, and the probes that it is shown to.

`flow_attention`, registered beside each attention function of transformers as `flow_sdpa`, `flow_eager`, ..., calls the
attention that the model had, unchanged, and shows query, key and value to the probes that watch this module in this
thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

PREFIX = "flow_"
"""Our attention's name is this and that of the stock one: a name with "flash" in it takes the flash code path."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The model's own attention: query, key, value [B, H, L, d] in, output [B, L, H, d] out."""

Stock = Callable[..., tuple[Tensor, Tensor | None]]
"""An attention function as transformers registers it."""


class Probe(Protocol):
    """What is shown the attention modules that it watches, while `watching` is in force."""

    def watches(self, module: nn.Module) -> bool:
        """Whether this module is one of the probe's."""
        ...

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The attention's output, as `attention` gives it; [B, H, L, d] in, [B, L, H, d] out."""
        ...


_probes: ContextVar[tuple[Probe, ...]] = ContextVar("flowcut_probes", default=())
_switch_lock = threading.Lock()
_switches: dict[int, _Switch] = {}
"""By the identity of a configuration in use, which two towers of one model may share."""


@dataclass
class _Switch:
    original: str
    users: int = 0


def flow_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own attention, shown to the probes of this thread that watch this module."""
    stock = _stock_attention(module)
    probes = [probe for probe in _probes.get() if probe.watches(module)]
    if not probes:
        return stock(module, query, key, value, attention_mask, scaling=scaling, **options)
    weights: list[Tensor | None] = []

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, seen = stock(module, query, key, value, attention_mask, scaling=scaling, **options)
        weights.append(seen)
        return output

    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    for probe in reversed(probes):  # each calls the next, the last one the model's own
        attention = partial(_attend, probe, module, scale, attention)
    output = attention(query, key, value)
    return output, weights[0] if len(weights) == 1 else None


def _attend(
    probe: Probe, module: nn.Module, scaling: float, attention: Attention, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    return probe.attend(module, query, key, value, scaling, attention)


def _register(stock: str) -> str:
    """Our name beside one of transformers' attention functions; its masks stay those of the stock one."""
    name = PREFIX + stock
    AttentionInterface.register(name, flow_attention)
    if stock in ALL_MASK_ATTENTION_FUNCTIONS:  # else a language model would lose its padding masks in silence
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    return name


def _stock_attention(module: nn.Module) -> Stock:
    """The attention function that this module used before ours was switched on."""
    eager: Stock = sys.modules[type(module).__module__].eager_attention_forward
    name = str(cast(Any, module).config._attn_implementation).removeprefix(PREFIX)
    stock: Stock = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
    return stock


def watched(module: nn.Module, apart_from: Probe | None = None) -> bool:
    """Whether a probe of this thread, another than `apart_from`, watches the module."""
    return any(probe.watches(module) for probe in _probes.get() if probe is not apart_from)


def is_watching(probe: Probe) -> bool:
    """Whether the probe is in force in this thread."""
    return any(active is probe for active in _probes.get())


@contextmanager
def watching(model: PreTrainedModel, probe: Probe) -> Iterator[None]:
    """While inside, `probe` sees the attention of the parts of `model` that it watches, in this thread."""
    _switch_on(model)
    _probes.set((probe, *_probes.get()))
    try:
        yield
    finally:
        # Not a reset to what was before: another thread may leave, or an outer one leave first.
        _probes.set(tuple(other for other in _probes.get() if other is not probe))
        _switch_off(model)


@contextmanager
def joined(*probes: Probe) -> Iterator[None]:
    """While inside, probes that are in force in another thread are so in this one, too."""
    new = tuple(probe for probe in dict.fromkeys(probes) if not is_watching(probe))
    _probes.set((*new, *_probes.get()))
    try:
        yield
    finally:
        _probes.set(tuple(other for other in _probes.get() if other not in new))


@contextmanager
def watched_by(probe: Probe) -> Iterator[None]:
    """While inside, attention is shown to this probe alone, in this thread: no other may see a run ahead."""
    before = _probes.get()
    _probes.set((probe,))
    try:
        yield
    finally:
        _probes.set(before)


def _switch_on(model: PreTrainedModel) -> None:
    with _switch_lock:
        switch = _switches.setdefault(id(model.config), _Switch(model.config._attn_implementation))
        if switch.users == 0:
            model.set_attn_implementation(_register(switch.original))
        switch.users += 1


def _switch_off(model: PreTrainedModel) -> None:
    """The last of several threads that watch one model puts its own attention back."""
    with _switch_lock:
        switch = _switches[id(model.config)]
        switch.users -= 1
        if switch.users == 0:
            del _switches[id(model.config)]
            model.set_attn_implementation(switch.original)
