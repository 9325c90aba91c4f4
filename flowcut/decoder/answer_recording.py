"""Where each answer token looks, recorded while a decoder writes with its own attention: one query row a step."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.decoder.evidence import capped
from flowcut.decoder.locate import READABLE, LanguageDecoder, find_decoder
from flowcut.decoder.recording import LanguageRecording
from flowcut.errors import FlowCutError
from flowcut.hooks.attention import Attention, watching
from flowcut.hooks.model_facts import synchronise
from flowcut.hooks.precision import full_precision
from flowcut.records.answer_attention import AnswerAttention


@dataclass
class _Layer:
    """What one decoder layer showed."""

    prompt_rows: Tensor
    """int64 [L'], rows of the prompt that this layer reads."""
    norms: Tensor
    """float32 [H, V'], L2 norm of the value of each visual token that it reads."""
    weights: list[Tensor] = field(default_factory=list)
    """Per step float32 [H, K], over the keys that the layer's cache held, the newest last."""


class AnswerRecording:
    """A `with` around `generate`: every pass of the decoder, prompt first, is one answer token's attention.

    ```python
    with AnswerRecording(model, visual_rows, prompt_length) as recording:
        model.generate(inputs_embeds=embeds)
    recording.attention
    ```

    Args:
        language_model: a decoder, or a model that holds one.
        visual_rows: int64 [V], places of the visual tokens in the prompt.
        prompt_length: tokens in the decoder's input in the first pass.
        cut: the recording that prunes inside the same decoder, if one does.

    Raises:
        FlowCutError: (a ValueError) the model is not supported; or, when it runs, the batch is not one prompt.
    """

    def __init__(
        self,
        language_model: nn.Module,
        visual_rows: Tensor,
        prompt_length: int,
        cut: LanguageRecording | None = None,
    ) -> None:
        self.decoder: LanguageDecoder = find_decoder(language_model, READABLE)
        self.cut = cut
        self.visual_rows = visual_rows
        self.prompt_length = prompt_length
        self._layer_of = {self.decoder.attention(index): index for index in self.decoder.attending}
        self.seconds = {"prefill": 0.0, "decode": 0.0}
        """Spent on recording, in each stage."""
        self._layers: dict[int, _Layer] = {}
        self._undo = ExitStack()

    def __enter__(self) -> AnswerRecording:
        self._undo.enter_context(watching(self.decoder.model, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def attention(self) -> AnswerAttention:
        """All steps so far.

        Raises:
            FlowCutError: the decoder did not run.
        """
        steps = [len(layer.weights) for _, layer in sorted(self._layers.items())]
        if len(steps) < len(self._layer_of):
            raise FlowCutError("No answer was recorded: run generate inside the with, in the thread that entered it.")
        whole = min(steps)  # a pass that broke off reached the first layers only
        shown = [
            [self._by_kind_of_token(self._layers[layer], step) for layer in sorted(self._layers)]
            for step in range(whole)
        ]
        numbers = {
            name: torch.stack([torch.stack([layer[name] for layer in step]) for step in shown]).cpu().numpy()
            for name in shown[0][0]
        }
        some = len(self._layer_of) < len(self.decoder.layers)
        layers = np.array(self.decoder.attending, dtype=np.int64) if some else None
        return AnswerAttention(**numbers, visual_rows=self.visual_rows.cpu().numpy(), layers=layers)

    def watches(self, module: nn.Module) -> bool:
        """Whether this is an attention module of the decoder."""
        return module in self._layer_of

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The model's own attention; the last query's row is worked out once more, for the record."""
        if len(query) != 1:
            raise FlowCutError(f"The attention of answers is recorded for one prompt at a time, not for {len(query)}.")
        index = self._layer_of[module]
        self._check_step(index, query.shape[2], key.shape[2])
        synchronise(query.device)
        started = time.perf_counter()
        with torch.no_grad(), full_precision(query.device):
            if index not in self._layers:
                self._layers[index] = self._first_look(index, value, heads=query.shape[1])
            weights = self._layers[index].weights
            window = None if self._sees_whole_prompt(index) else self._window(index)
            weights.append(last_row(query, key, scaling, window, self.decoder.softcap))
        synchronise(query.device)
        self.seconds["prefill" if len(weights) == 1 else "decode"] += time.perf_counter() - started
        return attention(query, key, value)

    def _sees_whole_prompt(self, layer: int) -> bool:
        """Whether it is the prompt's pass through a decoder whose windows do not end within a prompt (PaliGemma)."""
        first = not self._layers[layer].weights
        return first and bool(getattr(self.decoder.model.config, "use_bidirectional_attention", False))

    def _check_step(self, layer: int, queries: int, keys: int) -> None:
        """Every pass must be one token's: the whole prompt, then one more token, or all again where there is no cache.

        Raises:
            FlowCutError: it is not.
        """
        begins = layer not in self._layers
        if begins and keys > queries:
            raise FlowCutError(
                f"The first pass brings {queries} tokens to {keys} places of the cache: record the attention of "
                "answers from an empty cache, and not a static one."
            )
        if begins and layer == 0 and queries < self.prompt_length:
            raise FlowCutError(
                f"The prompt has {self.prompt_length} tokens and the first pass brings {queries}: read it in one piece "
                "(prefill_chunk_size=None), to record the attention of its answer."
            )
        ahead = queries > self.prompt_length if begins else 1 < queries < keys
        if ahead:
            raise FlowCutError(
                f"A pass brings {queries} tokens at once, as assisted generation does: the attention of answers is "
                "recorded where they are written token by token."
            )

    def _window(self, layer: int) -> int | None:
        config: Any = self.decoder.model.config
        return int(config.sliding_window) if self.decoder.slides(layer) else None

    def _first_look(self, layer: int, value: Tensor, heads: int) -> _Layer:
        """The prompt's pass: which rows the layer reads, and the values of its visual tokens, [1, G, L', d]."""
        kept_rows = self.cut.rows_at(layer) if self.cut is not None else None
        rows = torch.arange(value.shape[2], device=value.device) if kept_rows is None else kept_rows[0]
        visual = torch.isin(rows, self.visual_rows)
        norms = value[0, :, visual].float().norm(dim=-1)
        return _Layer(rows, norms.repeat_interleave(heads // value.shape[1], dim=0))

    def _by_kind_of_token(self, layer: _Layer, step: int) -> dict[str, Tensor]:
        """One step of one layer by kind of token, under the names of AnswerAttention's fields."""
        length, weights = self.prompt_length, layer.weights[step]
        rows = torch.cat([layer.prompt_rows, length + torch.arange(step, device=weights.device)])
        # A row [H, K] over all tokens that the layer ever read; those out of a window's reach get nothing.
        whole = nn.functional.pad(weights, (len(rows) - weights.shape[1], 0))
        visual, prompt, first = torch.isin(rows, self.visual_rows), rows < length, rows == 0
        # ||attention * value|| = attention ||value||, since attention is one number per key and head.
        return {
            "visual": self._by_visual_token(layer, whole[:, visual]),
            "weighted_norm": self._by_visual_token(layer, whole[:, visual] * layer.norms),
            "first": whole[:, first].sum(dim=-1),
            "prompt_text": whole[:, prompt & ~visual & ~first].sum(dim=-1),
            "answer_text": whole[:, ~prompt].sum(dim=-1),
        }

    def _by_visual_token(self, layer: _Layer, numbers: Tensor) -> Tensor:
        """[H, V], NaN where a token was cut before this layer; [H, V'] in."""
        found = numbers.new_full((len(numbers), len(self.visual_rows)), torch.nan)
        read = layer.prompt_rows[torch.isin(layer.prompt_rows, self.visual_rows)]
        found[:, torch.searchsorted(self.visual_rows, read)] = numbers
        return found


def last_row(
    query: Tensor, key: Tensor, scaling: float, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """float32 [H, K], attention of the last query; [1, H, q, d] and [1, G, K, d] in, G key heads in groups of H/G."""
    groups = key.shape[1]
    last = query[0, :, -1].float().unflatten(0, (groups, -1))
    logits = capped(torch.einsum("ghd,gkd->ghk", last, key[0].float()).flatten(0, 1) * scaling, softcap)
    if window is not None and window < logits.shape[-1]:
        logits[:, :-window] = -torch.inf
    return logits.softmax(dim=-1)
