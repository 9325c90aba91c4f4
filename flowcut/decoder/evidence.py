"""What criteria inside a language model are given, from one decoder layer's queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowcut.criteria.decoder import raters
from flowcut.criteria.flowcut import Criteria
from flowcut.decoder.passes import DecoderPass
from flowcut.decoder.segment import Span
from flowcut.decoder.two_way import CAUSAL


@dataclass(frozen=True)
class LayerInputs:
    """One decoder layer from the inside: H heads, in groups that share one of G keys and values."""

    query: Tensor
    """[B, H, L', d]."""
    key: Tensor
    """[B, G, L', d]; value likewise."""
    value: Tensor
    scaling: float
    window: int | None = None
    """How far back its attention reaches, in tokens; None: to the start."""
    softcap: float | None = None
    """What its logits are capped at, by a tanh; None: they are not."""


def gather(needs: Sequence[str] | None, current: DecoderPass, span: Span, inputs: LayerInputs) -> None:
    """Take from one layer what the method needs to know of one span; None: FlowCut's criteria."""
    prompt, key = span.prompt, inputs.key
    visual = current.columns(prompt, span.rows()).to(key.device)
    if needs is None:
        one, last = slice(prompt, prompt + 1), current.last[prompt]
        heads_per_group = inputs.query.shape[1] // key.shape[1]
        own = inputs.value[one, :, last].repeat_interleave(heads_per_group, dim=1)
        there = key[one][:, :, visual], inputs.value[one][:, :, visual]
        span.criteria = visual_criteria(inputs.query[one, :, last], own, *there, inputs.scaling, inputs.softcap)
        return
    if "visual_keys" in needs:
        text = current.columns(prompt, current.text_after(span)).to(key.device)
        for name, columns in (("visual_keys", visual), ("text_keys", text)):
            span.evidence[name] = rows_of(key[prompt].transpose(0, 1).flatten(1), columns)
    if {"visual_rows", "text_rows"} & set(needs):
        span.evidence.update(current.places_of(span))
    asking = {
        "last_attention": torch.tensor([current.last[prompt]]),
        "rater_attention": span.raters,
        "prior_attention": current.text_after(span)[:1],
    }
    for name in needs:
        rows = asking.get(name)
        if rows is not None:
            span.evidence[name] = rows_of(_attention_over(current, prompt, rows, inputs).mean(dim=0), visual)


def _attention_over(current: DecoderPass, prompt: int, rows: Tensor, inputs: LayerInputs) -> Tensor:
    """float32 [q, L'], head-mean attention of some rows of a prompt over the sequence as it is now."""
    assert current.live is not None
    query, key = inputs.query, inputs.key
    columns = current.columns(prompt, rows).to(query.device)
    live = current.segments[-1].kept_rows.live[prompt] if current.segments else current.live[prompt]
    back = columns[:, None] - torch.arange(key.shape[2], device=query.device)
    seen = (back >= 0) & live.to(query.device)
    if inputs.window is not None:
        seen &= back < inputs.window
    blocks = current.blocks_now()
    if blocks is not None:
        own = blocks[prompt].to(query.device)
        seen |= (own[columns, None] == own) & (own != CAUSAL) & live.to(query.device)
    return attention_rows(query[prompt][:, columns], key[prompt], inputs.scaling, seen, inputs.softcap)


def find_raters(current: DecoderPass, embedded: Tensor) -> None:
    """For SparseVLM, the text tokens that rate each picture, from what enters the decoder, [B, L, width]."""
    for span in current.spans:
        text, own = current.text_after(span), embedded[span.prompt]
        span.raters = text[torch.from_numpy(raters(rows_of(own, span.rows()), rows_of(own, text)))]


def take_states(current: DecoderPass, states: Tensor) -> None:
    """Keep the hidden states of pictures and text, [B, L', width], for a method that compares them."""
    for span in current.spans:
        rows = {"visual_states": span.rows(), "text_states": current.text_after(span)}
        for name, own in rows.items():
            span.evidence[name] = rows_of(states[span.prompt], current.columns(span.prompt, own))


def take_hidden(current: DecoderPass, hidden: Tensor) -> None:
    """Keep the pictures' hidden states, [B, L', width], for a method that puts them together from each other."""
    for span in current.spans:
        columns = current.columns(span.prompt, span.rows())
        span.evidence["visual_hidden"] = rows_of(hidden[span.prompt], columns)


def rows_of(tensor: Tensor, rows: Tensor) -> np.ndarray:
    """float64, some rows of a tensor."""
    found: np.ndarray = tensor.detach()[rows.to(tensor.device)].double().cpu().numpy()
    return found


def visual_criteria(
    query: Tensor, own_value: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None = None
) -> Criteria:
    """What one text token's flow says of the visual tokens: softmaxes over the visual tokens alone, in float32.

    Args:
        query, own_value: [B, H, d], query (after rotary embedding) and value of the last instruction token.
        key, value: [B, G, N, d], those of the visual tokens; G key/value heads, repeated to H where they are grouped.
        scaling: the attention's own factor on the logits; the similarity of values has 1/sqrt(d).
        softcap: what its logits are capped at, by a tanh; None: they are not.

    Returns:
        Criteria: float32 [B, N] each; `score` is (rel + sem) w.
    """
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.float().repeat_interleave(groups, dim=1) for part in (key, value))
    return Criteria(
        relation=_mean_share(query, keys, scaling, softcap),
        semantic=_mean_share(own_value, values, value.shape[-1] ** -0.5),
        norm=values.mean(dim=1).abs().sum(dim=-1),
    )


def attention_rows(query: Tensor, key: Tensor, scaling: float, seen: Tensor, softcap: float | None = None) -> Tensor:
    """float32 [q, k], head-mean attention of some queries over some keys.

    Args:
        query: [H, q, d], after rotary embedding.
        key: [G, k, d], repeated to H heads where they are grouped.
        seen: bool [q, k], which keys each query sees; each sees one at least.
        softcap: what logits are capped at, by a tanh; None: they are not.
    """
    keys = key.float().repeat_interleave(len(query) // len(key), dim=0)
    logits = capped(query.float() @ keys.transpose(-1, -2) * scaling, softcap)
    return logits.masked_fill(~seen, -torch.inf).softmax(dim=-1).mean(dim=0)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Logits of attention as a tanh caps them; as they are where nothing does."""
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def _mean_share(one: Tensor, many: Tensor, scaling: float, softcap: float | None = None) -> Tensor:
    """float32 [B, N], head-mean softmax of one [B, H, d] against many [B, H, N, d]; sums to 1."""
    logits = capped(torch.einsum("bhd,bhnd->bhn", one.float(), many) * scaling, softcap)
    return logits.log_softmax(dim=-1).logsumexp(dim=1).softmax(dim=-1)
