"""Recording and pruning inside a language model, for the length of a `with`; afterwards the model is as it was.

After one decoder layer the visual tokens that the last instruction token has least use for go (paper, LLaVA-NeXT). The
layers up to it keep their full cache; those after it run on shorter sequences, with positions renumbered without gaps
and masks to match, in the prefill and in every decoding step that uses its cache.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from numbers import Integral
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.attention import Attention, is_watching, watching
from flowcut.decoders import LanguageDecoder, find_decoder
from flowcut.encoders import model_facts
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.language_record import LanguageRecord
from flowcut.language_scores import visual_criteria
from flowcut.record import PADDING_ID
from flowcut.schedule import CutConfig, check_is_cut
from flowcut.scores import Criteria, highest

Spans = list[list[tuple[int, int]]]
"""Per prompt, (start, length) of each picture's run of visual tokens."""


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
        language_model: a Llama, Mistral or Qwen2 decoder, with its head or without, or a model that holds one.
        visual: where the visual tokens are: (start, length) for all prompts, or one for each prompt, or for each prompt
            a list with one for each picture; counted in the sequence, padding included.
        cut: `flowcut.FlowCut(tokens=T)` keeps T visual tokens of each span; None records only.
        layer: the decoder layer (from 0) inside which scores are taken and after which tokens go.
        instruction_end: one past the last instruction token, whose query and value score; None: the sequence's last
            token that is not padding. An int, or one for each prompt.
        facts: fields of LanguageRecord that only the caller knows (model_id, revision, family, notes).

    Raises:
        FlowCutError: (a ValueError) the model, the layer, the cut or the spans cannot be used. Spans that lie outside
            the prompt are found when it comes.
    """
    decoder = find_decoder(language_model)
    _check_cut(cut, layer, len(decoder.layers))
    recording = LanguageRecording(decoder, cut, layer, facts or {})
    recording.aim(visual, instruction_end)
    return recording


@dataclass(frozen=True)
class _Survivors:
    """What is left of a batch of prompts after the cut; kept beside the cache that was filled with it."""

    rows: Tensor
    """int64 [B, L'], rows of the uncut sequence; 0 where a shorter prompt is filled up, at the start."""
    live: Tensor
    """bool [B, L'], False where it is filled up."""
    shift: Tensor
    """int64 [B, L'], visual tokens removed before each row."""
    removed: Tensor
    """int64 [B], visual tokens removed from each prompt."""
    prompt_length: int
    """L."""

    @property
    def filled_up(self) -> bool:
        return not bool(self.live.all())

    def for_batch(self, batch: int) -> _Survivors:
        """The same for a batch whose prompts were repeated, as beams are: [B * k, ...]."""
        times = batch // len(self.rows)
        if times == 1:
            return self
        rows, live, shift, removed = (
            part.repeat_interleave(times, dim=0) for part in (self.rows, self.live, self.shift, self.removed)
        )
        return _Survivors(rows, live, shift, removed, self.prompt_length)

    def renumbered(self, positions: Tensor) -> Tensor:
        """int64 [B, L'], from the prompt's positions [B, L]: less the tokens removed before each."""
        return positions.gather(1, self.rows) - self.shift.masked_fill(~self.live, 0)

    def mask(self, mask: Tensor | None, keys: int) -> Tensor | None:
        """[B, keys after the cut], the padding mask [B, keys] as the layers after the cut need it."""
        if mask is None and not self.filled_up:
            return None
        whole = self.live.new_ones(len(self.rows), keys) if mask is None else mask.bool()
        prompt = whole[:, : self.prompt_length].gather(1, self.rows) & self.live
        return torch.cat([prompt, whole[:, self.prompt_length :]], dim=1)


@dataclass
class _Pass:
    """One forward pass of the decoder."""

    mask: Tensor | None
    """[B, keys], the padding mask at the door."""
    spans: list[tuple[int, int, int]]
    """(prompt, start, length) of each span of a prefill."""
    last: list[int]
    """Per prompt, the last instruction token's row."""
    survivors: _Survivors | None = None
    """Known at the door while decoding, after the pruning layer in a prefill."""
    criteria: dict[int, Criteria] = field(default_factory=dict)
    """By span."""
    positions: Tensor | None = None
    """int64 [B, q], after the cut."""
    rotary: tuple[Tensor, Tensor] | None = None
    masks: dict[bool, Any] = field(default_factory=dict)
    """By whether the layer's attention reaches back a window only."""


class LanguageRecording:
    """A `with` over a decoder; `record` is the last prefill through it.

    Only the thread that entered the `with` is recorded and pruned; others that use the model meanwhile are not.
    """

    def __init__(self, decoder: LanguageDecoder, cut: CutConfig | None, layer: int, facts: dict[str, Any]) -> None:
        self.decoder = decoder
        self.cut = cut
        self.layer = layer
        self.facts = facts
        self._scorer = decoder.attention(layer)
        self._signature = inspect.signature(decoder.model.forward)
        self._spans: Spans | None = None
        self._one_for_all = False
        self._instruction_end: int | list[int] | None = None
        self._survivors_of: weakref.WeakKeyDictionary[Any, _Survivors] = weakref.WeakKeyDictionary()
        self._pass: _Pass | None = None
        self._draft: dict[str, Any] | None = None
        self._undo = ExitStack()

    def aim(self, visual: Any, instruction_end: int | Sequence[int] | None = None) -> None:
        """Say where the visual tokens of the prompts to come are; None: nowhere, prompts pass untouched.

        Raises:
            FlowCutError: the spans are not pairs of whole numbers.
        """
        self._spans, self._one_for_all = (None, False) if visual is None else _read_spans(visual)
        self._instruction_end = instruction_end if isinstance(instruction_end, int | None) else list(instruction_end)

    def __enter__(self) -> LanguageRecording:
        with ExitStack() as undo:  # undoes what was done so far, should one of the next lines fail
            undo.enter_context(watching(self.decoder.model, self))
            door = self.decoder.model.register_forward_pre_hook(self._at_the_door, with_kwargs=True)
            undo.callback(door.remove)
            # First in line, so that transformers' own hooks see the pruned state.
            pruner = self.decoder.layers[self.layer]
            undo.callback(pruner.register_forward_hook(self._leaving, prepend=True, with_kwargs=True).remove)
            for index in range(self.layer + 1, len(self.decoder.layers)):
                hook = self._entering(index)
                undo.callback(self.decoder.layers[index].register_forward_pre_hook(hook, with_kwargs=True).remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass = None
        self._undo.close()

    @property
    def record(self) -> LanguageRecord:
        """The last prefill.

        Raises:
            FlowCutError: no prompt with visual tokens went through the decoder in this thread.
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
        current = self._pass
        if current is None or current.survivors is None or layer <= self.layer:
            return None
        return current.survivors.rows

    def watches(self, module: nn.Module) -> bool:
        """Whether this is the attention module of the pruning layer."""
        return module is self._scorer

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The model's own attention; in a prefill, each span is scored from its queries, keys and values."""
        current = self._pass
        if current is not None:
            with torch.no_grad():
                for index, (prompt, start, length) in enumerate(current.spans):
                    if self.cut is None or length > self.cut.tokens:
                        one, last, seen = slice(prompt, prompt + 1), current.last[prompt], slice(start, start + length)
                        own = value[one, :, last].repeat_interleave(query.shape[1] // value.shape[1], dim=1)
                        visual = key[one, :, seen], value[one, :, seen]
                        current.criteria[index] = visual_criteria(query[one, :, last], own, *visual, scaling)
        return attention(query, key, value)

    def _at_the_door(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What enters the decoder: a whole prompt, or more tokens for a cache that a prompt of ours filled."""
        self._pass = None
        if not is_watching(self):
            return
        given = self._signature.bind_partial(*args, **kwargs).arguments
        tokens = next((given[name] for name in ("inputs_embeds", "input_ids") if given.get(name) is not None), None)
        if tokens is None:
            return  # the model itself says what is missing
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        batch, length = tokens.shape[:2]
        if cache is None or cache.get_seq_length() == 0:
            if self._spans is not None:
                self._pass = self._prompt(batch, length, _padding_mask(mask))
        elif cache in self._survivors_of:
            survivors = self._survivors_of[cache].for_batch(batch)
            self._pass = _Pass(_padding_mask(mask), spans=[], last=[], survivors=survivors)

    def _prompt(self, batch: int, length: int, mask: Tensor | None) -> _Pass:
        """A prefill about to begin; its spans are held against the prompts that came."""
        spans, live = self._spans_of(batch), _live_rows(mask, batch, length)
        ends = self._ends(batch, live)
        for prompt, (own, alive, end) in enumerate(zip(spans, live.numpy(), ends, strict=True)):
            _check_spans(own, prompt, alive, end)
        flat = [(prompt, start, span) for prompt, own in enumerate(spans) for start, span in own]
        return _Pass(mask, flat, [end - 1 for end in ends])

    def _spans_of(self, batch: int) -> Spans:
        """The spans of each prompt of a batch; beams and returned sequences repeat each prompt."""
        assert self._spans is not None
        if not self._one_for_all and batch % len(self._spans):
            raise FlowCutError(
                f"visual has spans for {len(self._spans)} prompts and the batch holds {batch}: "
                "give one (start, length) for all, or one for each prompt."
            )
        return [own for own in self._spans for _ in range(batch // len(self._spans))]

    def _ends(self, batch: int, live: Tensor) -> list[int]:
        """Per prompt, one past its last instruction token."""
        wanted = self._instruction_end
        if wanted is None:
            return [int(np.flatnonzero(alive)[-1]) + 1 if alive.any() else 0 for alive in live.numpy()]
        ends = [wanted] if isinstance(wanted, int) else wanted
        if batch % len(ends):
            raise FlowCutError(f"instruction_end has {len(ends)} entries and the batch holds {batch} prompts.")
        return [end for end in ends for _ in range(batch // len(ends))]

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The pruning layer's output, [B, L, width], without the visual tokens that go here; None if all stay."""
        current = self._pass
        if current is None or current.survivors is not None or not is_watching(self):
            return None
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        batch, length = hidden.shape[:2]
        kept = [self._choose(index, span) for index, (_, _, span) in enumerate(current.spans)]
        survivors = _survivors(current.spans, kept, _live_rows(current.mask, batch, length), hidden.device)
        positions = kwargs["position_ids"].expand(batch, -1)
        self._write_draft(current, kept, survivors, positions)
        if not bool(survivors.removed.any()):
            return None
        current.survivors, current.positions = survivors, survivors.renumbered(positions)
        if kwargs.get("past_key_values") is not None:
            self._survivors_of[kwargs["past_key_values"]] = survivors
        shorter = hidden.gather(1, survivors.rows[..., None].expand(-1, -1, hidden.shape[-1]))
        return (shorter, *output[1:]) if isinstance(output, tuple) else shorter

    def _choose(self, index: int, length: int) -> Tensor:
        """int64 [min(T, N)] on the CPU, the visual ids of one span that stay."""
        assert self._pass is not None
        if self.cut is None or length <= self.cut.tokens:
            return torch.arange(length)
        score = self._pass.criteria[index].score
        if not bool(score.isfinite().all()):
            raise FlowCutError(
                f"The scores of decoder layer {self.layer} are not numbers: check what the model is given, or load it "
                "in float32 or bfloat16."
            )
        return highest(score, self.cut.tokens)[0].cpu()

    def _entering(self, index: int) -> Callable[..., Any]:
        """Before a layer after the cut: its positions, rotary embedding and mask, for the sequence that is left."""

        def prepare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            current = self._pass
            if current is None or current.survivors is None or not is_watching(self):
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if current.positions is None:  # decoding: whatever position comes, less what went before it
                current.positions = kwargs["position_ids"] - current.survivors.removed[:, None]
            if current.rotary is None:
                current.rotary = self.decoder.rotary(hidden, current.positions)
            mask = self._mask(current, index, hidden, kwargs.get("past_key_values"))
            ours = {"position_ids": current.positions, "position_embeddings": current.rotary, "attention_mask": mask}
            return args, {**kwargs, **ours}

        return prepare

    def _mask(self, current: _Pass, index: int, hidden: Tensor, cache: Any) -> Any:
        survivors, slides = current.survivors, self.decoder.slides(index)
        assert survivors is not None
        assert current.positions is not None
        if slides not in current.masks:
            cached = 0 if cache is None else cache.get_seq_length(index)
            grown = cached + hidden.shape[1] - survivors.rows.shape[1]  # tokens since the prompt
            live = survivors.mask(current.mask, survivors.prompt_length + grown)
            current.masks[slides] = self.decoder.mask(index, hidden, live, cache, current.positions)
        return current.masks[slides]

    def _write_draft(self, current: _Pass, kept: list[Tensor], survivors: _Survivors, positions: Tensor) -> None:
        """The record's fields; of prompts that were repeated, as beams are, the first of each."""
        assert self._spans is not None
        times = 1 if self._one_for_all else len(positions) // len(self._spans)
        first = slice(None, None, times)
        prompts = [(index, span) for index, span in enumerate(current.spans) if span[0] % times == 0]
        indices = [index for index, _ in prompts]
        rows = survivors.rows.masked_fill(~survivors.live, PADDING_ID)
        after = survivors.renumbered(positions).masked_fill(~survivors.live, PADDING_ID)
        self._draft = {
            "kept_visual_ids": _stacked([kept[index] for index in indices], PADDING_ID),
            "span_prompt": np.array([span[0] // times for _, span in prompts], dtype=np.int64),
            "spans": np.array([span[1:] for _, span in prompts], dtype=np.int64).reshape(-1, 2),
            "rows_after": _numpy(rows[first]),
            "positions_before": _numpy(positions[first]),
            "positions_after": _numpy(after[first]),
            "layer": self.layer,
            "n_layers": len(self.decoder.layers),
            "cut": self.cut,
            **_score_fields([current.criteria.get(i) for i in indices], [kept[i] for i in indices]),
            "notes": self._notes(current),
            "differs_from_release": self._differences(current, len(positions) // times, survivors),
        }

    def _notes(self, current: _Pass) -> tuple[str, ...]:
        notes = ["Scores are taken in float32, whatever the model's dtype."] if current.criteria else []
        if self.cut is not None and not current.criteria:
            longest = max((length for _, _, length in current.spans), default=0)
            notes.append(
                f"Nothing was cut in the language model: {self.cut.tokens} visual tokens were asked for and there are "
                f"{longest}."
            )
        return tuple(notes)

    def _differences(self, current: _Pass, prompts: int, survivors: _Survivors) -> tuple[str, ...]:
        """Where the released code, given the same, would stop or go wrong (golden vectors, points 13 and 15)."""
        if not bool(survivors.removed.any()):
            return ()
        said = []
        if prompts > 1:
            said.append("The released code cannot decode a batch after this cut; here each prompt has its own shift.")
        if current.mask is not None and not bool(current.mask.bool().all()):
            said.append(
                "The released code refuses left padding and fails on a padded batch; here padding is masked in every "
                "layer and each prompt's last real token asks."
            )
        if survivors.filled_up:
            said.append("Prompts that keep fewer tokens are filled up on the left, masked; the released code cannot.")
        owners = [prompt for prompt, _, _ in current.spans]
        if len(owners) > len(set(owners)):
            said.append(
                "The released code takes several pictures of a prompt, and the text between them, as one span; here "
                "each picture is a span of its own, with T tokens each."
            )
        return (*said, *self._flash_difference())

    def _flash_difference(self) -> tuple[str, ...]:
        config = self.decoder.model.config
        if "flash" not in config._attn_implementation or config.num_key_value_heads == config.num_attention_heads:
            return ()
        return ("The released code does not repeat grouped keys on its FlashAttention path; here they are repeated.",)


def _check_cut(cut: CutConfig | None, layer: int, n_layers: int) -> None:
    check_is_cut(cut)
    if cut is not None and cut.method != "flowcut":
        raise InvalidCut(f"The method {cut.method!r} has no stage in the language model: give flowcut.FlowCut(...).")
    if isinstance(layer, bool) or not isinstance(layer, Integral) or not 0 <= layer < n_layers:
        raise InvalidCut(
            f"layer is {layer!r} and the language model has {n_layers} layers: choose 0 to {n_layers - 1}."
        )


def _read_spans(visual: Any) -> tuple[Spans, bool]:
    """Spans per prompt, and whether they are one for all prompts."""
    entries = visual.tolist() if isinstance(visual, Tensor | np.ndarray) else list(visual)
    if len(entries) == 2 and all(_is_whole(entry) for entry in entries):
        return [[(int(entries[0]), int(entries[1]))]], True
    if not entries:
        raise FlowCutError("visual holds no spans: give (start, length), or one for each prompt.")
    return [_read_prompt(entry) for entry in entries], False


def _read_prompt(entry: Any) -> list[tuple[int, int]]:
    pairs = [] if isinstance(entry, str) or not isinstance(entry, Sequence) else list(entry)
    if len(pairs) == 2 and all(_is_whole(part) for part in pairs):
        pairs = [pairs]
    elif not isinstance(entry, Sequence) or not all(_is_pair(pair) for pair in pairs):
        raise FlowCutError(f"visual holds {entry!r}: give a (start, length) of whole numbers for each span.")
    return [(int(start), int(length)) for start, length in pairs]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(_is_whole(part) for part in pair)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_spans(spans: list[tuple[int, int]], prompt: int, live: np.ndarray, end: int) -> None:
    """Spans must lie inside the prompt, apart from each other, on live rows, before the end of the instruction."""
    taken = 0
    for start, length in sorted(spans):
        if start < taken or length < 1 or start + length > len(live):
            raise FlowCutError(
                f"The visual span of prompt {prompt} is (start {start}, length {length}), and the prompt has "
                f"{len(live)} positions: spans must lie inside it and not overlap."
            )
        if not live[start : start + length].all():
            raise FlowCutError(f"The visual span (start {start}, length {length}) of prompt {prompt} covers padding.")
        taken = start + length
    if not max(taken, 1) <= end <= len(live):
        raise FlowCutError(
            f"instruction_end is {end} for prompt {prompt}: it must lie from {max(taken, 1)}, after the visual tokens, "
            f"to {len(live)}, the prompt's length."
        )


def _padding_mask(mask: Any) -> Tensor | None:
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise FlowCutError(
            "The language model was given a ready-made attention mask: give the padding mask [batch, length], and "
            "leave the cache at its default (a static cache comes with ready-made masks)."
        )
    return mask


def _live_rows(mask: Tensor | None, batch: int, length: int) -> Tensor:
    """bool [B, L] on the CPU, False where a prompt is padded."""
    return torch.ones(batch, length, dtype=torch.bool) if mask is None else mask.bool().cpu()


def _survivors(spans: list[tuple[int, int, int]], kept: list[Tensor], live: Tensor, device: torch.device) -> _Survivors:
    """What of [B, L] rows goes on: all that are live but the visual tokens that were not kept; padding goes too."""
    gone = torch.zeros_like(live)
    for (prompt, start, length), ids in zip(spans, kept, strict=True):
        gone[prompt, start : start + length] = True
        gone[prompt, start + ids] = False
    rows = [row.nonzero()[:, 0] for row in live & ~gone]
    longest = max(len(row) for row in rows)
    filled = torch.stack([nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    alive = torch.arange(longest) >= torch.tensor([[longest - len(row)] for row in rows])
    before = gone.cumsum(dim=1)
    shift, removed = before.gather(1, filled).to(device), before[:, -1].to(device)
    return _Survivors(filled.to(device), alive.to(device), shift, removed, prompt_length=live.shape[1])


def _score_fields(criteria: list[Criteria | None], kept: list[Tensor]) -> dict[str, np.ndarray | None]:
    """The record's score fields, one row per span; NaN for spans that were not scored."""
    names = ("relation", "semantic", "value_norm", "score", "cutoff", "margin")
    if all(scored is None for scored in criteria):
        return dict.fromkeys(names)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for scored, ids in zip(criteria, kept, strict=True):
        for name, row in _score_rows(scored, ids).items():
            rows[name].append(row)
    cutoffs = torch.stack(rows.pop("cutoff")).numpy()
    return {"cutoff": cutoffs, **{name: _stacked(parts, np.nan) for name, parts in rows.items()}}


def _score_rows(scored: Criteria | None, kept: Tensor) -> dict[str, Tensor]:
    if scored is None:
        nothing = torch.full((len(kept),), torch.nan)
        names = ("relation", "semantic", "value_norm", "score", "margin")
        return {**dict.fromkeys(names, nothing), "cutoff": torch.tensor(torch.nan)}
    parts = {"relation": scored.relation, "semantic": scored.semantic, "value_norm": scored.norm, "score": scored.score}
    rows = {name: part[0].cpu() for name, part in parts.items()}
    lost_some = len(kept) < len(rows["score"])
    cutoff = rows["score"][kept].min() if lost_some else torch.tensor(torch.nan)
    return {**rows, "cutoff": cutoff, "margin": rows["score"] - cutoff}


def _stacked(rows: list[Tensor], filler: float) -> np.ndarray:
    """[S, longest], shorter rows filled up at the end."""
    if not rows:
        return np.zeros((0, 0), dtype=np.int64 if isinstance(filler, int) else np.float32)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler).numpy()


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
