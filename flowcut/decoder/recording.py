"""Recording and pruning inside a language model, for the length of a `with`; afterwards the model is as it was.

After one decoder layer, or several, visual tokens are pruned: those that FlowCut scores lowest for the last instruction
token (paper, LLaVA-NeXT), or those that another method ranks lowest. The layers up to it keep their full cache; those
after it run on shorter sequences, with positions and masks to match, in the prefill and in every decoding step that
uses its cache.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.criteria import METHODS, DecoderEvidence, DecoderPlan, highest
from flowcut.criteria.decoder import step_tokens
from flowcut.criteria.positions import KEPT, RENUMBERED
from flowcut.cut import CutConfig, check_is_cut, check_single
from flowcut.decoder.deepstack import ARGUMENTS, Deepstack, adds_features
from flowcut.decoder.evidence import LayerInputs, find_raters, gather, take_hidden, take_states
from flowcut.decoder.guards import check_cut, seal
from flowcut.decoder.kept_rows import KeptRows, kept_rows_of
from flowcut.decoder.locate import LanguageDecoder, find_decoder
from flowcut.decoder.passes import DecoderPass, check_cache, merge_pruned, padding_mask, put_merged
from flowcut.decoder.segment import Segment, Span
from flowcut.decoder.spans import Aim
from flowcut.decoder.to_record import Setting, draft
from flowcut.decoder.two_way import blocks_left
from flowcut.errors import FlowCutError
from flowcut.hooks.attention import Attention, is_watching, joined, watched_by, watching
from flowcut.hooks.elsewhere import Elsewhere
from flowcut.hooks.model_facts import model_facts
from flowcut.hooks.precision import full_precision
from flowcut.hooks.usable import check_usable
from flowcut.records.language import LanguageRecord


def record_language(
    language_model: nn.Module,
    visual: Any = None,
    cut: CutConfig | None = None,
    layer: int = 1,
    *,
    instruction_end: int | Sequence[int] | None = None,
    facts: dict[str, Any] | None = None,
) -> LanguageRecording:
    """Record, and with a cut also prune, the visual tokens of every prompt that goes through a decoder in the `with`.

    ```python
    with flowcut.record_language(llama_model, visual=(start, length), cut=flowcut.FlowCut(tokens=64), layer=1) as rec:
        out = llama_model(inputs_embeds=embeds, use_cache=True)
    rec.record.kept_visual_ids
    ```

    Args:
        language_model: a Llama, Mistral, Qwen2 or Qwen-VL decoder, with its head or without, or a model that holds one.
        visual: where the visual tokens are: (start, length) for all prompts, or one for each prompt, or for each prompt
            a list with one for each picture; counted in the sequence, padding included.
        cut: `flowcut.FlowCut(tokens=T)`, or another method of the decoder stage, keeps T visual tokens of each span;
            None records only.
        layer: FlowCut's decoder layer (from 0), inside which scores are taken and after which it prunes; other methods
            have their own.
        instruction_end: one past the last instruction token, whose query and value score; None: the sequence's last
            token that is not padding. An int, or one for each prompt.
        facts: fields of LanguageRecord that only the caller knows (model_id, revision, family, notes).

    Raises:
        FlowCutError: (a ValueError) the model, the layer, the cut or the spans cannot be used. Spans that lie outside
            the prompt are found when it comes.
    """
    check_is_cut(cut)
    check_single(cut)
    check_usable(language_model)
    recording = LanguageRecording.of(language_model, cut, layer, facts=facts)
    recording.aim(visual, instruction_end)
    return recording


class LanguageRecording:
    """A `with` over a decoder; `record` is the last prefill through it.

    Only the thread that entered the `with` is recorded and pruned; others that use the model meanwhile are not. If only
    others did, leaving the `with` raises: nothing was cut.
    """

    def __init__(self, decoder: LanguageDecoder, cut: CutConfig | None, layer: int, facts: dict[str, Any]) -> None:
        self.decoder = decoder
        self.cut = cut
        self.facts = facts
        self._plan: DecoderPlan | None = None if cut is None else METHODS[cut.method].decoder
        self._needs = () if cut is None else METHODS[cut.method].needs
        self.layers = (layer,) if self._plan is None else self._plan.cut_after(len(decoder.layers))
        """The layers (from 0) after which tokens are pruned."""
        positions = RENUMBERED if cut is None else cut.positions or METHODS[cut.method].positions
        self._keeps_positions = positions == KEPT or decoder.positions_are_places
        self._setting = Setting(decoder, cut, self._plan, self.layers)
        ahead = 1 if self._plan is not None and self._plan.looks_ahead else 0
        self._looked_at = {decoder.attention(layer + ahead) for layer in self.layers}
        self._signature = inspect.signature(decoder.model.forward)
        self._aim: Aim | None = None
        self._cut_of: weakref.WeakKeyDictionary[Any, list[tuple[int, KeptRows]]] = weakref.WeakKeyDictionary()
        """By the cache that was filled after them, the cuts and the layers after which they were made."""
        self._thread = threading.local()
        """Of each thread its pass, and the aim of that alone."""
        self._draft: dict[str, Any] | None = None
        self.drafted: Aim | None = None
        """The aim of the prompt that is recorded."""
        self.elsewhere = Elsewhere("language model")
        self._undo = ExitStack()

    @classmethod
    def of(
        cls, language_model: nn.Module, cut: CutConfig | None, layer: int = 1, *, facts: dict[str, Any] | None = None
    ) -> LanguageRecording:
        """As `record_language`, before it is known where the visual tokens are."""
        decoder = find_decoder(language_model)
        check_cut(cut, layer, decoder)
        return cls(decoder, cut, layer, facts or {})

    def aim(self, visual: Any, instruction_end: int | Sequence[int] | None = None) -> None:
        """Say where the visual tokens of the prompts to come are; None: nowhere, prompts pass untouched.

        Raises:
            FlowCutError: the spans are not pairs of whole numbers.
        """
        self.drafted = self._draft = None  # what was recorded before says nothing of the prompts to come
        self._aim = None if visual is None else Aim.at(visual, instruction_end)

    @contextmanager
    def reading(self, aim: Aim | None) -> Iterator[None]:
        """While inside, this thread's prompt is read with visual tokens where `aim` says, in force or not before."""
        self._thread.aim = aim
        try:
            with joined(self):
                yield
        finally:
            del self._thread.aim

    def filled(self, cache: Any) -> bool:
        """Whether a cache was filled by a prompt that was cut here."""
        return cache is not None and cache in self._cut_of

    @property
    def _pass(self) -> DecoderPass | None:
        """What goes through the decoder in this thread."""
        return getattr(self._thread, "current", None)

    @_pass.setter
    def _pass(self, current: DecoderPass | None) -> None:
        self._thread.current = current

    def __enter__(self) -> LanguageRecording:
        with ExitStack() as undo:  # undoes what was done so far, should one of the next lines fail
            undo.enter_context(watching(self.decoder.model, self))
            prefill_hook = self.decoder.model.register_forward_pre_hook(self._on_decoder_input, with_kwargs=True)
            undo.callback(prefill_hook.remove)
            # First in line, so that transformers' own hooks see the pruned state.
            for step, layer in enumerate(self.layers):
                pruner, hook = self.decoder.layers[layer], self._leaving(step)
                undo.callback(pruner.register_forward_hook(hook, prepend=True, with_kwargs=True).remove)
            for index in range(len(self.decoder.layers) if adds_features(self.decoder.model) else 0):
                adder, hook = self.decoder.layers[index], self._adding(index)
                undo.callback(adder.register_forward_hook(hook, prepend=True).remove)
            for index in range(self.layers[0] + 1, len(self.decoder.layers)):
                hook = self._entering(index)
                undo.callback(self.decoder.layers[index].register_forward_pre_hook(hook, with_kwargs=True).remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass = None
        self._undo.close()
        for cache, cuts in list(self._cut_of.items()):
            seal(cache, cuts[0][0] + 1)
        if error is None and self.cut is not None:
            self.elsewhere.check()

    @property
    def record(self) -> LanguageRecord:
        """The last prefill.

        Raises:
            FlowCutError: no prompt with visual tokens passed through the decoder in this thread.
        """
        if self._draft is None:
            raise FlowCutError(
                "Nothing was recorded: run the language model inside the with, in the thread that entered it."
            )
        facts = {**model_facts(self.decoder.model), **self.facts}
        facts["notes"] = (*self._draft["notes"], *self.facts.get("notes", ()))
        return LanguageRecord(**{**self._draft, **facts})

    @property
    def recorded(self) -> bool:
        """Whether there is a record."""
        return self._draft is not None

    def describe(self, **facts: Any) -> None:
        """Add to the record what only the caller knows: model_id, revision, notes."""
        self.facts.update(facts)

    def rows_at(self, layer: int) -> Tensor | None:
        """int64 [B, L'], rows of the prompt that a layer of the pass now running reads; None: all of them."""
        segment = None if self._pass is None else self._pass.segment_at(layer)
        return None if segment is None else segment.kept_rows.rows

    def watches(self, module: nn.Module) -> bool:
        """Whether this is the attention module of a layer that is shown to it."""
        return module in self._looked_at

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The model's own attention; in a prefill, each span takes its evidence from queries, keys and values.

        Of a lookahead only these are wanted, and its output is zeros.
        """
        current = self._pass
        ahead = current is not None and current.ahead
        looks_now = self._plan is None or self._plan.looks_ahead == ahead
        if current is not None and current.prefill and looks_now:
            inputs = LayerInputs(query, key, value, scaling, self._window(module), self.decoder.softcap)
            needs = None if self._plan is None else self._needs
            with torch.no_grad(), full_precision(query.device):
                for span in current.spans:
                    if self.cut is None or len(span.alive) > self.cut.tokens:
                        gather(needs, current, span, inputs)
        return query.new_zeros(query.shape).transpose(1, 2) if ahead else attention(query, key, value)

    def _window(self, module: nn.Module) -> int | None:
        """How far back the attention of a layer reaches, in tokens; None: to the start."""
        layer = next(i for i in range(len(self.decoder.layers)) if self.decoder.attention(i) is module)
        config: Any = self.decoder.model.config
        return int(config.sliding_window) if self.decoder.slides(layer) else None

    def _on_decoder_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What enters the decoder: a full prompt, or more tokens for a cache that a prompt of ours filled."""
        self._pass = None
        self.elsewhere.note(is_watching(self), self.decoder.attention(self.layers[0]))
        if not is_watching(self):
            return None
        self._begin(args, kwargs)
        if self._pass is None or self._pass.deepstack is None:
            return None
        return args, {**kwargs, **dict.fromkeys(ARGUMENTS)}  # added by hooks of ours

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._signature.bind_partial(*args, **kwargs).arguments
        tokens = next((given[name] for name in ("inputs_embeds", "input_ids") if given.get(name) is not None), None)
        if tokens is None:
            return  # the model itself says what is missing
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        batch, length = tokens.shape[:2]
        if cache is None or cache.get_seq_length() == 0:
            aim = getattr(self._thread, "aim", self._aim)
            if aim is not None:
                check_cache(cache)
                self._pass = DecoderPass.of_prompts(aim, batch, length, padding_mask(mask, self.decoder.model, length))
                self._pass.deepstack = Deepstack.taken_from(self.decoder.model, given)
                if self._plan is not None:
                    self._pass.check_text()
                if "rater_attention" in self._needs:
                    find_raters(self._pass, self.decoder.embedded(given))
        elif cache in self._cut_of:
            segments = [Segment(layer, kept_rows.for_batch(batch)) for layer, kept_rows in self._cut_of[cache]]
            self._pass = DecoderPass(padding_mask(mask, self.decoder.model), prefill=False, segments=segments)

    def _adding(self, index: int) -> Callable[..., Any]:
        """After a layer, before any cut there: with the features that the model adds behind it."""

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            current = self._pass
            if current is None or current.deepstack is None or not is_watching(self):
                return None
            segment = current.segment_at(index)
            return current.deepstack.added(index, output, None if segment is None else segment.kept_rows)

        return add

    def _leaving(self, step: int) -> Callable[..., Any]:
        """After a layer: its output, [B, L', width], without the visual tokens pruned here; None if all are kept."""

        def cut(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            current = self._pass
            if current is None or not current.prefill or not is_watching(self):
                return None
            hidden: Tensor = output[0] if isinstance(output, tuple) else output
            shorter = self._cut_after(step, current, hidden, kwargs)
            if shorter is None:
                return None
            return (shorter, *output[1:]) if isinstance(output, tuple) else shorter

        return cut

    def _cut_after(self, step: int, current: DecoderPass, hidden: Tensor, kwargs: Mapping[str, Any]) -> Tensor | None:
        """A prefill's sequence after one of the layers, without what is pruned there; None if all are kept."""
        assert current.live is not None
        current.note_positions(kwargs.get("position_ids"), hidden.device)
        assert current.origin is not None
        lost = self._choose(step, current, hidden, kwargs)
        kept = [torch.from_numpy(span.kept) for span in current.spans]
        places = [span.place for span in current.spans]
        merged = [torch.from_numpy(span.merged) for span in current.spans]
        kept_rows = kept_rows_of(places, kept, current.live, hidden.device, not self._keeps_positions, merged)
        if lost or not current.segments:
            assert current.aim is not None
            times = current.aim.repeats(len(hidden))
            self._draft = draft(self._setting, current, kept_rows, times, self.layers[step])
            self.drafted = current.aim
        if not lost:
            return None
        here = kept_rows.places(current.segments[-1].kept_rows if current.segments else None)
        blocks = blocks_left(current.blocks, kept_rows.rows)
        left = Segment(self.layers[step], kept_rows, kept_rows.renumbered(current.origin), blocks=blocks)
        current.segments.append(left)
        if kwargs.get("past_key_values") is not None:
            self._cut_of[kwargs["past_key_values"]] = [
                (segment.after, segment.kept_rows) for segment in current.segments
            ]
        return put_merged(current, kept_rows, hidden.gather(1, here[..., None].expand(-1, -1, hidden.shape[-1])))

    def _choose(self, step: int, current: DecoderPass, hidden: Tensor, kwargs: Mapping[str, Any]) -> bool:
        """Prune each span at this step; whether any lost something."""
        if self.cut is None:
            return False
        budgets = [step_tokens(span.length, self.cut.tokens, step, len(self.layers)) for span in current.spans]
        losing = [(span, left) for span, left in zip(current.spans, budgets, strict=True) if len(span.alive) > left]
        if losing and self._plan is not None and self._plan.looks_ahead:
            self._run_ahead(current, self.layers[step] + 1, hidden, kwargs)
        if losing and "visual_states" in self._needs:
            take_states(current, self.decoder.final_norm(hidden))
        if losing and "visual_hidden" in self._needs:
            take_hidden(current, hidden)
        for span, left in losing:
            ranking, rows = self._rank(span, step), span.rows()
            gone = span.keep(highest(ranking, left), ranking, self.layers[step])
            if self.cut.setting("recycling"):
                merge_pruned(current, span, hidden, rows[gone], ranking[gone])
        for span in current.spans:
            span.read.append(len(span.alive))
        return bool(losing)

    def _rank(self, span: Span, step: int) -> np.ndarray:
        """float64 [n + m], the ranking of one span's visual tokens that are alive."""
        assert self.cut is not None
        if self._plan is None:
            assert span.criteria is not None
            ranking = span.criteria.score[0].cpu().double().numpy()
        else:
            evidence = DecoderEvidence(len(span.alive), **span.evidence)
            ranking = METHODS[self.cut.method].ranking(evidence, self.cut)
        if not np.isfinite(ranking).all():
            raise FlowCutError(
                f"The scores of decoder layer {self.layers[step]} are not numbers: check what the model is given, or "
                "load it in float32 or bfloat16."
            )
        return ranking

    def _run_ahead(self, current: DecoderPass, layer: int, hidden: Tensor, kwargs: Mapping[str, Any]) -> None:
        """A lookahead: the attention of the layer after the cut, as if nothing was pruned."""
        current.ahead = True
        try:
            with torch.no_grad(), watched_by(self):
                positions = current.segments[-1].positions if current.segments else current.origin
                assert positions is not None
                self.decoder.attend_ahead(layer, hidden, kwargs, positions)
        finally:
            current.ahead = False

    def _entering(self, index: int) -> Callable[..., Any]:
        """Before a layer after the cut: its positions, rotary embedding and mask, for the tokens kept."""

        def prepare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            current = self._pass
            segment = None if current is None or not is_watching(self) else current.segment_at(index)
            if current is None or segment is None:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            rotary = segment.turned(self.decoder, index, hidden, kwargs, self._keeps_positions)
            mask = segment.mask(self.decoder, index, hidden, current.mask, kwargs.get("past_key_values"))
            # The rotary embedding knows the positions; flash attention would take gaps for borders between prompts.
            positions = None if self._keeps_positions else segment.positions
            ours = {"position_ids": positions, "position_embeddings": rotary, "attention_mask": mask}
            return args, {**kwargs, **ours}

        return prepare
