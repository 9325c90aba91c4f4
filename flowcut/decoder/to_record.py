"""From one prefill's tensors to the fields of a LanguageRecord, and what is to be said about it in words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.criteria import DecoderPlan
from flowcut.criteria.decoder import step_tokens
from flowcut.criteria.flowcut import Criteria
from flowcut.cut import CutConfig
from flowcut.decoder.kept_rows import KeptRows
from flowcut.decoder.locate import LanguageDecoder
from flowcut.decoder.passes import DecoderPass
from flowcut.decoder.segment import Span
from flowcut.records.vision import PADDING_ID

MERGED_NOTE = (
    "{merged} of the {alive} visual tokens that the last layers read are merged from pruned ones: they come behind the "
    "others and count as no patch that is kept; where attention is shown, theirs is shown at the token at the centre "
    "of each cluster."
)


@dataclass(frozen=True)
class Setting:
    """What a recording does to every prompt."""

    decoder: LanguageDecoder
    cut: CutConfig | None
    plan: DecoderPlan | None
    """How another method than FlowCut cuts."""
    layers: tuple[int, ...]
    """The layers after which tokens are pruned."""


def draft(setting: Setting, current: DecoderPass, kept_rows: KeptRows, times: int, layer: int) -> dict[str, Any]:
    """The record's fields after a cut, or after a layer that could have cut.

    Args:
        setting: of the recording.
        current: the prefill, its spans as the cut left them.
        kept_rows: what is kept of its prompts.
        times: how often each prompt stands in the batch, as it does for beams; the first of each is recorded.
        layer: after which it was.
    """
    assert current.origin is not None
    first = slice(None, None, times)
    spans = [span for span in current.spans if span.prompt % times == 0]
    kept = [torch.from_numpy(span.kept) for span in spans]
    rows = kept_rows.rows.masked_fill(~kept_rows.live, PADDING_ID)
    after = kept_rows.renumbered(current.origin).masked_fill(~kept_rows.live, PADDING_ID)
    return {
        "kept_visual_ids": stacked(kept, PADDING_ID),
        "span_prompt": np.array([span.prompt // times for span in spans], dtype=np.int64),
        "spans": np.array([span.place[1:] for span in spans], dtype=np.int64).reshape(-1, 2),
        "rows_after": numpy_of(rows[first]),
        "positions_before": numpy_of(current.origin[first]),
        "positions_after": numpy_of(after[first]),
        "layer": layer,
        "n_layers": len(setting.decoder.layers),
        "cut": setting.cut,
        **score_fields([span.criteria for span in spans], kept),
        **_pruned_when(spans),
        "notes": _notes(setting, current.spans),
        "differs_from_release": _differences(setting, current, len(current.origin) // times, kept_rows),
    }


def _pruned_when(spans: list[Span]) -> dict[str, np.ndarray | None]:
    """When each visual token was pruned, and what it was ranked by; None where none was."""
    if all((span.pruned_at < 0).all() for span in spans):
        return {"ranking": None, "pruned_at_layer": None}
    rankings = [torch.from_numpy(span.ranking()).float() for span in spans]
    pruned_at = [torch.from_numpy(span.pruned_at) for span in spans]
    return {"ranking": stacked(rankings, np.nan), "pruned_at_layer": stacked(pruned_at, PADDING_ID)}


def _notes(setting: Setting, spans: list[Span]) -> tuple[str, ...]:
    notes = []
    if any(span.criteria is not None or span.evidence for span in spans):
        notes.append("Scores are taken in float32, whatever the model's dtype.")
    if setting.cut is None:
        return tuple(notes)
    if not notes:
        longest = max((span.length for span in spans), default=0)
        notes.append(
            f"Nothing was cut in the language model: {setting.cut.tokens} visual tokens were asked for and there are "
            f"{longest}."
        )
    elif setting.plan is not None:
        span = max(spans, key=lambda one: one.length)
        notes.append(_what_it_costs(span, setting.cut.tokens, setting.layers, len(setting.decoder.layers)))
        if len(span.merged):
            notes.append(MERGED_NOTE.format(merged=len(span.merged), alive=len(span.alive)))
    return tuple(notes)


def _what_it_costs(span: Span, tokens: int, layers: tuple[int, ...], n_layers: int) -> str:
    """A budget at the end says little of the layers before: in words, what all layers read on average."""
    visual, steps = span.length, range(len(span.read), len(layers))
    left = [*span.read, *(step_tokens(visual, tokens, step, len(layers)) for step in steps)]  # the rest is to come
    begins = [0, *(layer + 1 for layer in layers), n_layers]
    read = [visual, *left]
    mean = sum(n * (end - begin) for n, (begin, end) in zip(read, pairwise(begins), strict=True)) / n_layers
    return (
        f"The first {begins[1]} of {n_layers} decoder layers read all {visual} visual tokens, the last "
        f"{n_layers - begins[-2]} read {left[-1]}; the mean over layers is {mean:.1f}."
    )


def _differences(setting: Setting, current: DecoderPass, prompts: int, kept_rows: KeptRows) -> tuple[str, ...]:
    """Where the released code, given the same, would stop or go wrong (golden vectors, points 13 and 15)."""
    if not bool(kept_rows.removed.any()):
        return ()
    if setting.plan is not None:
        assert setting.cut is not None
        return setting.cut.differs
    said = []
    if prompts > 1:
        said.append("The released code cannot decode a batch after this cut; here each prompt has its own shift.")
    if current.mask is not None and not bool(current.mask.bool().all()):
        said.append(
            "The released code refuses left padding and fails on a padded batch; here padding is masked in every "
            "layer and each prompt's last real token asks."
        )
    if kept_rows.filled_up:
        said.append("Prompts that keep fewer tokens are filled up on the left, masked; the released code cannot.")
    owners = [span.prompt for span in current.spans]
    if len(owners) > len(set(owners)):
        said.append(
            "The released code takes several pictures of a prompt, and the text between them, as one span; here "
            "each picture is a span of its own, with T tokens each."
        )
    return (*said, *_attention_difference(setting.decoder))


def _attention_difference(decoder: LanguageDecoder) -> tuple[str, ...]:
    config: Any = decoder.model.config
    if decoder.positions_are_places:
        stops = "sdpa" not in config._attn_implementation
        return ("The released Qwen code stops with an error unless the decoder's attention is SDPA.",) if stops else ()
    if "flash" not in config._attn_implementation or config.num_key_value_heads == config.num_attention_heads:
        return ()
    return ("The released code does not repeat grouped keys on its FlashAttention path; here they are repeated.",)


def score_fields(criteria: list[Criteria | None], kept: list[Tensor]) -> dict[str, np.ndarray | None]:
    """The record's score fields, one row per span; NaN for spans that were not scored."""
    names = ("relation", "semantic", "value_norm", "score", "cutoff", "margin")
    if all(scored is None for scored in criteria):
        return dict.fromkeys(names)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for scored, ids in zip(criteria, kept, strict=True):
        for name, row in _score_rows(scored, ids).items():
            rows[name].append(row)
    cutoffs = torch.stack(rows.pop("cutoff")).numpy()
    return {"cutoff": cutoffs, **{name: stacked(parts, np.nan) for name, parts in rows.items()}}


def _score_rows(scored: Criteria | None, kept: Tensor) -> dict[str, Tensor]:
    if scored is None:
        nothing = torch.full((len(kept),), torch.nan, dtype=torch.float32)
        names = ("relation", "semantic", "value_norm", "score", "margin")
        return {**dict.fromkeys(names, nothing), "cutoff": torch.tensor(torch.nan, dtype=torch.float32)}
    parts = {"relation": scored.relation, "semantic": scored.semantic, "value_norm": scored.norm, "score": scored.score}
    rows = {name: part[0].cpu() for name, part in parts.items()}
    lost_some = len(kept) < len(rows["score"])
    cutoff = rows["score"][kept].min() if lost_some else torch.tensor(torch.nan, dtype=torch.float32)
    return {**rows, "cutoff": cutoff, "margin": rows["score"] - cutoff}


def stacked(rows: list[Tensor], filler: float) -> np.ndarray:
    """[S, longest], shorter rows filled up at the end."""
    if not rows:
        return np.zeros((0, 0), dtype=np.int64 if isinstance(filler, int) else np.float32)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler).numpy()


def numpy_of(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
