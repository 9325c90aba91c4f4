"""What criteria inside a vision encoder are given, from one layer's queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from flowcut.criteria.flowcut import cls_logits, value_norm, with_proxy
from flowcut.encoder.statistics import column_mean


@dataclass(frozen=True)
class LayerInputs:
    """One vision layer from the inside, for a prune group of b pictures: H heads, N+1 tokens, CLS first."""

    layer: int
    hidden: Tensor
    """[b, N+1, width], the layer's input."""
    query: Tensor
    """[b, H, N+1, d]; key and value likewise."""
    key: Tensor
    value: Tensor
    scaling: float
    windows: Tensor | None = None
    """int64 [b, N], the window within which each patch attends; None: one for all."""

    def with_proxy(self) -> LayerInputs:
        """The view of patches alone, N tokens on every axis, with a proxy as token 0; its key is never used."""
        hidden, query, key, value = (with_proxy(part) for part in (self.hidden, self.query, self.key, self.value))
        return replace(self, hidden=hidden, query=query, key=key, value=value)


def evidence_of(name: str, inputs: LayerInputs, proxy: bool) -> Tensor:
    """One of Evidence's fields that a layer's attention shows, float32 [b, N, ...], patches alone.

    Args:
        name: the field.
        inputs: the layer, CLS or a proxy as token 0.
        proxy: whether token 0 is a proxy.
    """
    if name == "cls_attention":
        row = cls_logits(inputs.query, inputs.key, inputs.scaling, proxy).softmax(dim=-1)
        return row.mean(dim=1)[:, 1:]
    if name == "value_norm":
        return value_norm(inputs.value)[:, 1:]
    if name == "keys":
        return inputs.key.float().mean(dim=1)[:, 1:]
    received = column_mean(inputs.query, inputs.key, inputs.scaling, proxy=proxy, windows=inputs.windows)
    return received[:, 1:]
