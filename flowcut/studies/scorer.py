"""How probable an answer is under other choices of visual tokens: the engine of every comparison and causal check."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from flowcut.criteria.positions import RENUMBERED, Positions, known_positions
from flowcut.criteria.stages import DECODER
from flowcut.cut import CutConfig, check_is_cut, stage_of
from flowcut.decoder.recording import LanguageRecording
from flowcut.errors import FlowCutError
from flowcut.families.support import check_allowed, check_positions, positions_under
from flowcut.generation.prompt import put_question
from flowcut.generation.session import Session
from flowcut.media.picture import open_picture
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import AnswerScores
from flowcut.studies.prefix_cache import PromptStart, read_on


class AnswerScorer:
    """One answer to one question about one picture, held against any choice of its patches.

    ```python
    scorer = flowcut.AnswerScorer(model, image, question, [token.id for token in run.tokens])
    scorer.score([np.arange(64), np.arange(64, 128)]).total
    ```

    Every patch is as the unpruned vision encoder made it; what is left out is not given to the language model. The
    positions of the rest are without gaps, as LLaVA-1.5 reads a pruned picture, or those of the full prompt, so that
    nothing changes but what is there. The encoder runs once, at the first look.
    The model's lock is held for one batch at a time, and nothing of ours stays on the model.

    Args:
        model: from `flowcut.load`.
        image: as in `flowcut.ask`; question and system likewise.
        answer_ids: the answer's token ids, the end token included if it stopped the answer.

    Raises:
        FlowCutError: (a ValueError) one sentence: picture, question or answer cannot be used.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        image: Any,
        question: str,
        answer_ids: Sequence[int],
        system: str | None = None,
    ) -> None:
        if not isinstance(model, VisionLanguageModel):
            raise FlowCutError(f"model is a {type(model).__name__}: give what flowcut.load returned.")
        self.model = model
        self.question = question
        self.system = system
        self.picture = open_picture(image)
        self.answer_ids = _checked_answer(model, answer_ids)
        self.inputs = put_question(model, self.picture, question, system, len(self.answer_ids)).inputs
        self._whole: PromptStart | None = None

    @property
    def n_patches(self) -> int:
        """N, patches of the picture, which `score` takes by their ids 0 to N-1.

        Raises:
            FlowCutError: this model's visual tokens are not its patches, one by one.
        """
        return int((self.start.patch_of_row >= 0).sum())

    @property
    def grid_cols(self) -> int:
        """Patches in a row of the picture's grid; raises as `n_patches` does."""
        return self.start.grid_cols

    @property
    def takes_patches(self) -> bool:
        """Whether `score` can be used: each visual token of this model is one patch of one grid."""
        start = self._encoded()
        patches = None if start is None else start.patch_of_row[start.patch_of_row >= 0]
        return patches is not None and torch.equal(patches, torch.arange(len(patches)))

    @property
    def most_tokens(self) -> int:
        """The largest budget of a cut: visual tokens of the uncut prompt."""
        input_ids: Tensor = self.inputs["input_ids"][0]
        found = int((input_ids == self.model.family.placeholder_id(self.model.model)).sum())
        return min(found, self.model.n_patches)

    @property
    def start(self) -> PromptStart:
        """The prompt with the whole picture, which is encoded when first asked for; raises as `n_patches` does."""
        start = self._encoded()
        if start is None or not self.takes_patches:
            raise FlowCutError(
                f"{self.model.family.name} does not read one token for each patch of one grid: patches can be left out "
                "one by one with models of LLaVA-1.5's build only; compare whole cuts here."
            )
        return start

    def also(self, question: str, answer_ids: Sequence[int]) -> AnswerScorer:
        """Another question about the same picture; it is not encoded again where the prompt begins alike."""
        other = AnswerScorer(self.model, self.picture, question, answer_ids, self.system)
        if torch.equal(self._beginning(), other._beginning()):
            other._whole = self._encoded()
        return other

    def score(self, kept: Sequence[Any], positions: Positions = "renumbered") -> AnswerScores:
        """The answer under K sets of patches, each an int array of patch ids in any order; an empty one: no picture.

        Args:
            kept: the sets.
            positions: of all tokens but those left out: `renumbered` without gaps, or `kept` as in the full prompt.

        Raises:
            FlowCutError: a set names no patches of this picture; or this model's visual tokens are not its patches, or
                cannot have these positions.
        """
        return score_together([self], kept, positions)[0]

    def score_cut(self, cut: CutConfig | None) -> AnswerScores:
        """The answer through the real pruned path, in vision encoder, projector and decoder; None: the whole picture.

        K is 1. The selection never sees the answer: a decoder cuts while it reads the prompt, then the answer's tokens
        come one by one.

        Raises:
            FlowCutError: this model cannot do the cut.
        """
        check_is_cut(cut)
        return score_cut_together([self], cut)[0]

    def _beginning(self) -> Tensor:
        """int64 [V], ids of the uncut prompt up to its last visual token."""
        input_ids: Tensor = self.inputs["input_ids"][0]
        return input_ids[: len(input_ids) - len(self._ending())]

    def _ending(self) -> Tensor:
        """int64 [t], ids of the prompt after its last visual token."""
        input_ids: Tensor = self.inputs["input_ids"][0]
        visual = (input_ids == self.model.family.placeholder_id(self.model.model)).nonzero()
        return input_ids[int(visual[-1]) + 1 :] if len(visual) else input_ids

    def _encode(self, cut: CutConfig | None) -> PromptStart | None:
        """The prompt up to its last visual token under a cut; None where tokens alone do not say how it is read on."""
        hf_model, family = self.model.model, self.model.family
        if family.unread is not None:  # nobody knows what else its forward does, nor how its tokens lie
            return None
        with Session(hf_model, cut, record=False) as session:
            if session.language is not None or family.positions_are_places:  # dropping tokens changes their layout
                return None
            prepared = session.prepare(self.inputs)
            (picture,) = session.media
        input_ids = prepared["input_ids"][0]
        visual = input_ids == family.placeholder_id(hf_model)
        end = int(visual.nonzero()[-1]) + 1
        embeds = hf_model.get_input_embeddings()(input_ids[:end])
        embeds[visual[:end]] = picture.features.to(embeds.dtype)
        patch_of_row = torch.full((end,), -1)
        patch_of_row[visual[:end].cpu()] = picture.sources[:, 1].cpu()
        kept_places = "position_ids" in prepared
        places = prepared["position_ids"][0, :end].cpu() if kept_places else None
        ends_at = len(self._beginning()) if kept_places else None
        return PromptStart(hf_model, embeds, patch_of_row, session.recording.grid[1], session.ranking, places, ends_at)

    def _encoded(self) -> PromptStart | None:
        """The whole picture, encoded once; None where `_encode` says so."""
        if self._whole is None:
            with self.model.lock, torch.no_grad():
                self._whole = self._encode(None)
        return self._whole

    def _tail(self) -> Tensor:
        """[t, width], what is read after the picture: the rest of the prompt and the answer but its last token."""
        return self._embedded(torch.cat([self._ending(), torch.tensor(self.answer_ids[:-1], dtype=torch.long)]))

    def _embedded(self, ids: Tensor) -> Tensor:
        """[t, width], token ids as the decoder is given them."""
        embedding: Tensor = self.model.model.get_input_embeddings()(ids.to(self.model.model.device))
        return embedding

    def _read_and_cut(self, cut: CutConfig) -> AnswerScores:
        """The whole picture through a decoder that cuts while it reads the prompt; then the answer, on top of that."""
        hf_model: Any = self.model.model
        check_allowed(cut, hf_model, self.model.family)
        patches = (self.start.patch_of_row >= 0).nonzero()[:, 0]
        prompt = torch.cat([self.start.embeds, self._embedded(self._ending())])[None]
        decoder, span = self.model.family.language_model(hf_model), (int(patches[0]), len(patches))
        recording = LanguageRecording.of(decoder, cut)
        recording.aim(span)
        with recording:
            read = hf_model(inputs_embeds=prompt, use_cache=True, logits_to_keep=1)
            logits = [read.logits]
            if len(self.answer_ids) > 1:
                answer = self._embedded(torch.tensor(self.answer_ids[:-1]))[None]
                logits.append(hf_model(inputs_embeds=answer, past_key_values=read.past_key_values).logits)
        ranking = recording.record.ranking
        found = _measured(torch.cat(logits, dim=1), self.answer_ids)
        positions = positions_under(cut, self.model.family)
        return AnswerScores(*found, None if ranking is None else ranking[0].astype(np.float32), positions)

    def _score_forced(self, cut: CutConfig | None) -> AnswerScores:
        """The stock `generate` under a cut, made to write this answer."""
        hf_model: Any = self.model.model
        with Session(hf_model, cut, record=False) as session:
            prepared = session.prepare(self.inputs)
            forced_answer = _ForcedAnswer(self.answer_ids, prepared["input_ids"].shape[1])
            out = hf_model.generate(
                **prepared,
                max_new_tokens=len(self.answer_ids),
                do_sample=False,
                num_beams=1,
                logits_processor=[forced_answer],
                output_logits=True,
                return_dict_in_generate=True,
            )
        found = _measured(torch.stack(out.logits, dim=1), self.answer_ids)
        return AnswerScores(*found, session.ranking, session.positions or RENUMBERED)


def score_together(
    scorers: Sequence[AnswerScorer], kept: Sequence[Any], positions: Positions = "renumbered"
) -> list[AnswerScores]:
    """The same sets of patches under several questions about one picture, each set read once for all of them.

    Args:
        scorers: one, and others made by its `also`.
        kept: K int arrays of patch ids, as in `AnswerScorer.score`; positions likewise.
    """
    start, model = scorers[0].start, scorers[0].model
    check_positions(known_positions(positions), model.model, model.family)
    if any(scorer.start is not start for scorer in scorers):
        raise FlowCutError("The scorers are not of one picture and prompt: make the others by also() of the first.")
    sets = [checked_set(one, scorers[0].n_patches) for one in kept]
    place = {one.tobytes(): index for index, one in enumerate(sets)}  # equal sets are read once
    which = sorted(set(place.values()))
    rows = {index: start.rows(torch.from_numpy(sets[index])) for index in which}
    found = [_Rows(len(sets), len(scorer.answer_ids)) for scorer in scorers]
    longest = max(len(scorer.answer_ids) + len(scorer._ending()) for scorer in scorers)
    for batch in start.batches([rows[index] for index in which], longest):
        indices = [which[position] for position in batch]
        with model.lock, torch.inference_mode():
            results = _read_batch(scorers, start, torch.stack([rows[index] for index in indices]), positions)
        for rows_found, result in zip(found, results, strict=True):
            rows_found.put(indices, *result)
    everywhere = [place[one.tobytes()] for one in sets]
    return [AnswerScores(one.logprobs[everywhere], one.exact_match[everywhere], positions=positions) for one in found]


def score_cut_together(scorers: Sequence[AnswerScorer], cut: CutConfig | None) -> list[AnswerScores]:
    """One cut under several questions about one picture, which is encoded and read once where the cut allows it."""
    first = scorers[0]
    with first.model.lock, torch.no_grad():
        if stage_of(cut) is DECODER and first.takes_patches:
            assert cut is not None
            return [scorer._read_and_cut(cut) for scorer in scorers]
        start = first._encoded() if cut is None else first._encode(cut)
        if start is None or any(not torch.equal(first._beginning(), scorer._beginning()) for scorer in scorers):
            return [scorer._score_forced(cut) for scorer in scorers]
        everything = torch.arange(len(start.embeds))[None]
        positions = RENUMBERED if cut is None else positions_under(cut, first.model.family)
        found = _read_batch(scorers, start, everything, positions)
        return [AnswerScores(*one, ranking=start.ranking, positions=positions) for one in found]


def _read_batch(
    scorers: Sequence[AnswerScorer], start: PromptStart, rows: Tensor, positions: Positions
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probs [B, A] and sameness [B] of every scorer under B choices of rows, [B, m]."""
    cache, begin, found = start.read(rows, positions), start.begin_after(rows, positions), []
    for scorer in scorers:
        tail = scorer._tail().expand(len(rows), -1, -1)
        logits = read_on(scorer.model.model, cache, tail, len(scorer.answer_ids), begin)
        found.append(_measured(logits, scorer.answer_ids))
    return found


class _Rows:
    """Results of one scorer, filled batch by batch."""

    def __init__(self, sets: int, tokens: int) -> None:
        self.logprobs = np.full((sets, tokens), np.nan)
        self.exact_match = np.zeros(sets, dtype=bool)

    def put(self, indices: list[int], logprobs: np.ndarray, exact_match: np.ndarray) -> None:
        self.logprobs[indices], self.exact_match[indices] = logprobs, exact_match


class _ForcedAnswer(LogitsProcessor):  # type: ignore[misc]  # mypy does not read transformers
    """Whatever the model would say, the next token is the answer's."""

    def __init__(self, answer_ids: Sequence[int], prompt_tokens: int) -> None:
        self.answer_ids = answer_ids
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.answer_ids[input_ids.shape[1] - self.prompt_tokens]] = 0.0
        return forced


def _measured(logits: Tensor, answer_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of logits [B, A, vocabulary]: an answer's log-probs float64 [B, A], and bool [B]: each token is the likeliest.

    In float64, or an answer that is all but certain would be exactly certain. On the CPU: not every device has float64.
    """
    logits, answer = logits.cpu().double(), torch.tensor(answer_ids)
    own = logits.gather(-1, answer.expand(len(logits), -1)[..., None])[..., 0]
    exact_match = (logits.argmax(dim=-1) == answer).all(dim=1)
    return (own - logits.logsumexp(dim=-1)).numpy(), exact_match.numpy()


def _checked_answer(model: VisionLanguageModel, answer_ids: Any) -> tuple[int, ...]:
    """The answer as whole numbers that the model has tokens for."""
    ids: list[Any] = list(answer_ids)
    if not ids:
        raise FlowCutError("answer_ids is empty: give the token ids of an answer, [token.id for token in run.tokens].")
    words = int(model.model.config.text_config.vocab_size)
    strange = [i for i in ids if isinstance(i, bool) or not isinstance(i, Integral) or not 0 <= int(i) < words]
    if strange:
        raise FlowCutError(f"answer_ids holds {strange[0]!r}: token ids of this model are whole numbers below {words}.")
    config = model.model.generation_config
    end = config.eos_token_id if config is not None else None
    ends = {end} if isinstance(end, int) else set(end or ())
    if ends & set(ids[:-1]):
        raise FlowCutError("answer_ids goes on after an end token: give the tokens of one answer, up to its end token.")
    return tuple(int(i) for i in ids)


def checked_set(kept: Any, n_patches: int) -> np.ndarray:
    """int64 [T] ascending, the ids of some of a picture's patches.

    Raises:
        FlowCutError: they are no ids of its patches, each once.
    """
    ids = np.asarray(kept)
    if ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(np.unique(ids)) < len(ids):
        raise FlowCutError(f"kept holds {ids.dtype} {list(ids.shape)}: give arrays of patch ids, each id once.")
    if ids.min() < 0 or ids.max() >= n_patches:
        raise FlowCutError(
            f"kept names patch {int(ids[(ids < 0) | (ids >= n_patches)][0])}: patches are 0 to {n_patches - 1}."
        )
    return np.sort(ids.astype(np.int64))
