"""Seeing the attention without holding it: our attention function, the probes it reports to, streamed statistics.

`flow_attention`, registered beside each attention function of transformers as `flow_sdpa`, `flow_eager`, ..., calls the
attention that the model had, unchanged, and shows query, key and value to the probes that watch this module in this
thread. The N x N matrix of a head is never held: statistics are gathered over 128 queries
at a time.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from flowcut.errors import FlowCutError
from flowcut.ids import CLS_ID, PADDING_ID

PREFIX = "flow_"
"""Our attention's name is this and that of the stock one: a name with "flash" in it takes the flash code path."""
QUERY_BLOCK = 128
STRONGEST = 4

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The model's own attention: query, key, value [B, H, L, d] in, output [B, L, H, d] out."""

Stock = Callable[..., tuple[Tensor, Tensor | None]]
"""An attention function as transformers registers it."""


class Probe(Protocol):
    """Someone who watches attention modules while `watching` is in force."""

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


class Elsewhere:
    """Whether a model ran only in threads that did not enter the `with`: then a cut was asked for and not made."""

    def __init__(self, part: str) -> None:
        self._part = part
        self.matters = True
        """False where somebody else sees to it that every thread is cut."""
        self._ran_here = False
        self._ran_elsewhere = False

    def note(self, is_here: bool, module: nn.Module) -> None:
        """It begins to run, here or in another thread, which may watch this module of it in a `with` of its own."""
        if is_here:
            self._ran_here = True
        elif not watched(module):
            self._ran_elsewhere = True

    def check(self) -> None:
        """
        Raises:
            FlowCutError: it ran in other threads only.
        """
        if self.matters and self._ran_elsewhere and not self._ran_here:
            raise FlowCutError(
                f"Nothing was cut: the {self._part} ran only in a thread that did not enter the with, so run it in the "
                "one that did, or enter it there."
            )


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
    """While inside, attention is shown to this probe alone, in this thread: a run ahead is nobody else's business."""
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


@dataclass(frozen=True)
class AttentionStatistics:
    """One layer's attention, summed up. Shapes and meanings are those of the fields of the same name in LayerFlow."""

    cls_column: Tensor
    received_mass: Tensor
    received_by_head: Tensor
    row_entropy: Tensor
    attention_distance: Tensor
    top_source_ids: Tensor
    top_source_weights: Tensor
    top_destination_id: Tensor
    top_destination_weight: Tensor
    head_mean: Tensor | None


def stream_statistics(
    query: Tensor,
    key: Tensor,
    scaling: float,
    patch_ids: Tensor,
    grid_cols: int,
    matrices: bool = False,
    *,
    proxy: bool = False,
    windows: Tensor | None = None,
) -> AttentionStatistics:
    """Walk the queries in blocks, softmax in float32, and keep only what a record keeps.

    Args:
        query, key: [B, H, N+1, d], CLS first.
        scaling: the attention's own factor on the logits.
        patch_ids: int64 [B, N], where each patch lies on the grid.
        grid_cols: patches in a row of the grid.
        matrices: whether to keep the head-mean matrix too, in float16.
        proxy: token 0 is not the model's own: nothing attends to it, and its query counts in its own row alone.
        windows: int64 [B, N], the window within which each patch attends; None: one for all.
    """
    tokens = query.shape[2]
    streams = _Streams.empty(query, patch_ids, grid_cols, matrices, proxy)
    keys = key.float().transpose(-1, -2)
    for start in range(0, tokens, QUERY_BLOCK):
        block = query[:, :, start : start + QUERY_BLOCK].float()
        logits = block @ keys * scaling
        hidden = _hidden_keys(start, block.shape[2], tokens, proxy, windows, query.device)
        if hidden is not None:
            logits = logits.masked_fill(hidden, -math.inf)
        streams.add(start, logits.softmax(dim=-1))
    return streams.finish()


def column_mean(
    query: Tensor, key: Tensor, scaling: float, *, proxy: bool = False, windows: Tensor | None = None
) -> Tensor:
    """float32 [B, N+1], head-mean attention that a token receives, mean over the model's own queries.

    Args: as for `stream_statistics`.
    """
    tokens = query.shape[2]
    first = 1 if proxy else 0  # a proxy's query is not the model's own
    received = torch.zeros(len(query), tokens, device=query.device)
    keys = key.float().transpose(-1, -2)
    for start in range(first, tokens, QUERY_BLOCK):
        block = query[:, :, start : start + QUERY_BLOCK].float()
        logits = block @ keys * scaling
        hidden = _hidden_keys(start, block.shape[2], tokens, proxy, windows, query.device)
        if hidden is not None:
            logits = logits.masked_fill(hidden, -math.inf)
        received += logits.softmax(dim=-1).mean(dim=1).sum(dim=1)
    return received / (tokens - first)


def _hidden_keys(
    start: int, count: int, tokens: int, proxy: bool, windows: Tensor | None, device: torch.device
) -> Tensor | None:
    """bool, broadcast over [B, H, count, tokens]: what queries `start`, ... do not see; None: they see everything."""
    if not proxy and windows is None:
        return None
    hidden = torch.zeros(1, count, tokens, dtype=torch.bool, device=device)
    if windows is not None:
        everywhere = -1  # token 0 belongs to no window: it sees all, and all see it
        window = nn.functional.pad(windows, (1, 0), value=everywhere)
        here = window[:, start : start + count, None]
        hidden = (here != window[:, None]) & (here != everywhere) & (window[:, None] != everywhere)
    if proxy:
        hidden[..., 0] = True
    return hidden[:, None]


@dataclass
class _Streams:
    """Running sums over blocks of queries; `weights` is one block's attention, float32 [B, H, block, N+1]."""

    proxy: bool
    """Whether token 0's query is to be left out of the sums over queries."""
    token_ids: Tensor
    places: Tensor
    """float32 [B, N, 2], row and column of each patch."""
    cls_column: list[Tensor]
    source_weights: list[Tensor]
    source_ids: list[Tensor]
    received: Tensor
    """float32 [B, H, N+1], attention received so far."""
    entropy_sum: Tensor
    distance_sum: Tensor
    destination_weight: Tensor
    destination_index: Tensor
    matrix_rows: list[Tensor] | None

    @classmethod
    def empty(cls, query: Tensor, patch_ids: Tensor, grid_cols: int, matrices: bool, proxy: bool) -> _Streams:
        batch, heads, tokens = query.shape[:3]
        cls_ids = patch_ids.new_full((batch, 1), CLS_ID)
        per_token = torch.zeros(batch, tokens, device=query.device)
        per_head = torch.zeros(batch, heads, device=query.device)
        return cls(
            proxy=proxy,
            token_ids=torch.cat([cls_ids, patch_ids], dim=1),
            places=torch.stack([patch_ids // grid_cols, patch_ids % grid_cols], dim=-1).float(),
            cls_column=[],
            source_weights=[],
            source_ids=[],
            received=torch.zeros(batch, heads, tokens, device=query.device),
            entropy_sum=per_head,
            distance_sum=per_head.clone(),
            destination_weight=per_token - 1.0,  # below any attention weight
            destination_index=torch.zeros_like(per_token, dtype=torch.long),
            matrix_rows=[] if matrices else None,
        )

    def add(self, start: int, weights: Tensor) -> None:
        """Take in the attention of queries `start`, `start + 1`, ..."""
        head_mean = weights.mean(dim=1)  # [B, block, N+1]
        own = slice(max(self._left_out - start, 0), None)  # the model's own queries
        self.cls_column.append(weights[..., 0])
        self.received += weights[:, :, own].sum(dim=2)
        self.entropy_sum += torch.special.entr(weights[:, :, own]).sum(dim=(-1, -2))
        self._add_distances(start, weights)
        self._add_sources(head_mean)
        if head_mean[:, own].shape[1]:
            self._add_destinations(start + (own.start or 0), head_mean[:, own])
        if self.matrix_rows is not None:
            self.matrix_rows.append(head_mean.half())

    @property
    def _left_out(self) -> int:
        """Queries at the start that are not the model's own."""
        return 1 if self.proxy else 0

    def _add_distances(self, start: int, weights: Tensor) -> None:
        """Per patch query, the mean distance to the patches it attends to, weighed by attention without CLS."""
        patch_rows = weights[:, :, max(1 - start, 0) :, 1:]
        first = max(start, 1) - 1
        here = self.places[:, first : first + patch_rows.shape[2]]
        distances = torch.cdist(here, self.places, compute_mode="donot_use_mm_for_euclid_dist")
        reached = (patch_rows * distances[:, None]).sum(dim=-1)
        mass = patch_rows.sum(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        self.distance_sum += (reached / mass).sum(dim=-1)

    def _add_sources(self, head_mean: Tensor) -> None:
        found = head_mean.topk(min(STRONGEST, head_mean.shape[-1]), dim=-1)
        ids = self.token_ids[:, None].expand(-1, head_mean.shape[1], -1).gather(2, found.indices)
        ids = ids.masked_fill(found.values == 0, PADDING_ID)  # what a query does not see is no source of it
        missing = STRONGEST - ids.shape[-1]
        self.source_weights.append(nn.functional.pad(found.values, (0, missing)))
        self.source_ids.append(nn.functional.pad(ids, (0, missing), value=PADDING_ID))

    def _add_destinations(self, start: int, head_mean: Tensor) -> None:
        strongest = head_mean.max(dim=1)
        stronger = strongest.values > self.destination_weight
        self.destination_weight = torch.where(stronger, strongest.values, self.destination_weight)
        self.destination_index = torch.where(stronger, strongest.indices + start, self.destination_index)

    def finish(self) -> AttentionStatistics:
        tokens = self.token_ids.shape[1]
        alone = self.destination_weight <= 0
        destination = self.token_ids.gather(1, self.destination_index).masked_fill(alone, PADDING_ID)
        return AttentionStatistics(
            cls_column=torch.cat(self.cls_column, dim=-1),
            received_mass=self.received.mean(dim=1),
            received_by_head=self.received.half(),
            row_entropy=self.entropy_sum / (tokens - self._left_out),
            attention_distance=self.distance_sum / (tokens - 1),
            top_source_ids=torch.cat(self.source_ids, dim=1),
            top_source_weights=torch.cat(self.source_weights, dim=1),
            top_destination_id=destination,
            top_destination_weight=self.destination_weight.clamp_min(0),
            head_mean=None if self.matrix_rows is None else torch.cat(self.matrix_rows, dim=1),
        )
