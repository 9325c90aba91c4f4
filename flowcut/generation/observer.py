"""Listening to the stock `generate`: each token's probability, the text so far, the cache, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from flowcut.hooks.model_facts import synchronise
from flowcut.records.run import AnswerToken

RUNNERS_UP = 5
INCOMPLETE = "\ufffd"
"""What a tokenizer writes for the first bytes of a character whose last bytes are still to come."""


class Listener(StoppingCriteria):  # type: ignore[misc]  # mypy does not read transformers
    """Handed to `generate` as a stopping criterion, which is called once per token; hooks bring it the raw logits."""

    def __init__(
        self,
        tokenizer: Any,
        max_new_tokens: int,
        on_text: Callable[[str], Any] | None,
        on_progress: Callable[[str, float], Any],
        stop: Callable[[], bool],
    ) -> None:
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.on_text = on_text
        self.on_progress = on_progress
        self.stop = stop
        self.heard = False
        """Whether the language model ran."""
        self.stopped = False
        self.first_token_at: float | None = None
        """`time.perf_counter()` when the first token's logits were there."""
        self.prompt_tokens = 0
        self.visual_tokens = 0
        self._layer_tokens: list[int] = []
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[float] = []
        self._runners_up: list[tuple[tuple[int, float], ...]] = []
        self._log_probabilities: Tensor | None = None
        self._cache: Any = None

    @contextmanager
    def listening(self, model: nn.Module, language_model: nn.Module) -> Iterator[None]:
        """While inside, `generate` of this model is listened to; no hook of ours is left behind."""
        with ExitStack() as undo:
            hook = language_model.register_forward_pre_hook(self._on_decoder_input, with_kwargs=True)
            undo.callback(hook.remove)
            for layer in getattr(language_model, "layers", ()):
                undo.callback(layer.register_forward_pre_hook(self._at_a_layer, with_kwargs=True).remove)
            undo.callback(model.register_forward_hook(self._after_step, with_kwargs=True).remove)
            yield

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """A token was chosen; True stops `generate` here."""
        token_id = int(input_ids[0, -1])
        self._note_probability(token_id)
        self._ids.append(token_id)
        self._texts.append(self.tokenizer.decode(self._ids, skip_special_tokens=True))
        if self.on_text is not None:
            self.on_text(self._texts[-1].rstrip(INCOMPLETE))
        self.on_progress("decode", len(self._ids) / self.max_new_tokens)
        self.stopped = self.stop()
        return torch.full((input_ids.shape[0],), self.stopped, device=input_ids.device, dtype=torch.bool)

    @property
    def answer(self) -> str:
        """The whole answer, without special tokens and outer spaces."""
        return self._texts[-1].strip() if self._texts else ""

    def tokens(self) -> tuple[AnswerToken, ...]:
        """Every token heard, each with the text it added."""
        shown = ["", *(text.rstrip(INCOMPLETE) for text in self._texts[:-1]), *self._texts[-1:]]
        # Not simply the new end: some tokenizers change a space of what they wrote before.
        added = [now[_same_start(before, now) :] for before, now in pairwise(shown)]
        heard = zip(self._ids, added, self._logprobs, self._runners_up, strict=True)
        return tuple(
            AnswerToken(i, text, logprob, tuple((r, self.tokenizer.decode([r]), p) for r, p in others))
            for i, text, logprob, others in heard
        )

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        """Tokens of the prompt that each decoder layer read."""
        return tuple(self._layer_tokens)

    def kv_bytes(self) -> tuple[int, ...]:
        """Bytes of the cache per decoder layer: its keys and values; of linear attention its states."""
        kept = [_cached(layer) for layer in getattr(self._cache, "layers", ())]
        return tuple(sum(part.numel() * part.element_size() for part in parts) for parts in kept)

    def _on_decoder_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What enters the language model first is the whole prompt, [1, tokens, width]."""
        if not self.heard:
            self.heard = True
            self.prompt_tokens = int(kwargs["inputs_embeds"].shape[1])

    def _at_a_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What enters a decoder layer, [1, tokens, width], of the prompt alone: before the first logits."""
        if self.first_token_at is None:
            self._layer_tokens.append(int((args[0] if args else kwargs["hidden_states"]).shape[1]))

    def _after_step(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """One forward pass of the whole model: raw logits [1, L, vocabulary] before any temperature."""
        self._log_probabilities = output.logits[0, -1].float().log_softmax(dim=-1)
        self._cache = output.past_key_values
        if self.first_token_at is None:
            synchronise(output.logits.device)
            self.first_token_at = time.perf_counter()
            encoded = (kwargs.get("mm_encoder_outputs") or {}).values()  # put in place of as many placeholders
            self.visual_tokens = sum(len(tokens) for features in encoded for tokens in features.pooler_output)

    def _note_probability(self, token_id: int) -> None:
        assert self._log_probabilities is not None
        count = min(RUNNERS_UP + 1, len(self._log_probabilities))
        best = self._log_probabilities.topk(count)
        others = [(i, p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True) if i != token_id]
        self._runners_up.append(tuple(others[:RUNNERS_UP]))
        self._logprobs.append(float(self._log_probabilities[token_id]))


def _cached(layer: Any) -> list[Tensor]:
    """What one layer of a cache holds."""
    pair = [getattr(layer, name, None) for name in ("keys", "values")]
    states = [state for name in ("conv_states", "recurrent_states") for state in getattr(layer, name, {}).values()]
    return [part for part in (*pair, *states) if isinstance(part, Tensor)]


def _same_start(before: str, now: str) -> int:
    """Characters from the start that two texts share."""
    pairs = enumerate(zip(before, now, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(before), len(now)))
