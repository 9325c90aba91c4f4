"""AnswerScorer against the plain, slow way: drop the tokens from the prompt, run the stock model, take log-softmax."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

import flowcut
from flowcut.criteria import METHODS
from flowcut.errors import FlowCutError
from flowcut.models.loading import VisionLanguageModel
from flowcut.studies import prefix_cache
from flowcut.studies.scorer import AnswerScorer, score_cut_together, score_together
from flowcut_lens.scenes import draw
from tests import tiny, tiny_qwen, tiny_qwen3

QUESTION = "What is in the picture?"
ANSWER = [60, 70, 80, 61, 2]
SCENE, SCENE_QUESTION = 500_002, "What is written on the small yellow card?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def embedded() -> VisionLanguageModel:
    return flowcut.load("embedded")


def some_sets(n_patches: int, seed: int = 0) -> list[np.ndarray]:
    """Empty, one, few, half, all but one at the start, in the middle, at the end, a 2 x 2 block gone, all, no order."""
    draw_from = np.random.default_rng(seed)
    ids, side = np.arange(n_patches), int(n_patches**0.5)
    block = np.array([3, 4, side + 3, side + 4])
    gone = [0, n_patches // 2, n_patches - 1]
    sets = [ids[:0], ids[5:6], draw_from.permutation(n_patches)[:9], draw_from.permutation(n_patches)[: n_patches // 2]]
    return [*sets, *(np.delete(ids, one) for one in gone), np.delete(ids, block), ids]


def plain_logits(
    model: VisionLanguageModel, image: Any, question: str, answer_ids: list[int], kept: np.ndarray
) -> torch.Tensor:
    """[A, vocabulary], stock code only: placeholders and features dropped, the answer appended, one forward pass."""
    prompt = model.family.prompt(model.processor, question, None)
    inputs = model.processor(images=image, text=prompt, return_tensors="pt")
    if model.processor.tokenizer.bos_token and prompt.startswith(model.processor.tokenizer.bos_token):
        inputs = model.processor(images=image, text=prompt, return_tensors="pt", add_special_tokens=False)
    ids = inputs["input_ids"][0]
    is_image = ids == model.model.config.image_token_id
    stays = ~is_image
    stays[is_image.nonzero()[: len(kept), 0]] = True
    sequence = torch.cat([ids[stays], torch.tensor(answer_ids)])[None]
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"].to(model.model.dtype)).pooler_output[0]
        chosen = BaseModelOutputWithPooling(pooler_output=[features[torch.from_numpy(np.sort(kept))]])
        pictures = {"mm_encoder_outputs": {"image": chosen}} if len(kept) else {}
        logits = model.model(input_ids=sequence, use_cache=False, **pictures).logits[0].float()
    return logits[-len(answer_ids) - 1 : -1]


def plain(model: VisionLanguageModel, image: Any, question: str, answer: list[int], kept: np.ndarray) -> np.ndarray:
    logprobs = plain_logits(model, image, question, answer, kept).log_softmax(dim=-1)
    return logprobs[torch.arange(len(answer)), torch.tensor(answer)].numpy()


def test_equals_the_slow_way(model: VisionLanguageModel) -> None:
    sets = some_sets(tiny.N_PATCHES)
    scores = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER).score(sets)
    expected = np.stack([plain(model, tiny.picture(), QUESTION, ANSWER, kept) for kept in sets])
    assert scores.logprobs.dtype == np.float64
    assert scores.total.dtype == np.float64
    np.testing.assert_allclose(scores.logprobs, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.total, expected.sum(axis=1), rtol=0, atol=5e-5)
    assert np.ptp(expected[:, 0]) > 0.01, "the sets must matter, or nothing was tested"


def test_equals_the_slow_way_on_the_embedded_model(embedded: VisionLanguageModel) -> None:
    image = draw(SCENE).image
    run = flowcut.ask(embedded, image, SCENE_QUESTION, record=False)
    answer = [token.id for token in run.tokens]
    sets = some_sets(576)
    scores = AnswerScorer(embedded, image, SCENE_QUESTION, answer).score(sets)
    expected = np.stack([plain(embedded, image, SCENE_QUESTION, answer, kept) for kept in sets])
    np.testing.assert_allclose(scores.logprobs, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.logprobs[-1], [token.logprob for token in run.tokens], atol=1e-4)
    assert scores.exact_match[-1]
    assert not scores.exact_match[0], "without the picture the card cannot be read"


@pytest.mark.parametrize("max_new_tokens", [3, 40])
def test_same_means_that_greedy_decoding_writes_it(model: VisionLanguageModel, max_new_tokens: int) -> None:
    """Against the stock generate on the dropped tokens; answers that ended by length, and one with its end token."""
    image, ids = tiny.picture(3), np.arange(tiny.N_PATCHES)
    sets = [ids, *(np.delete(ids, one) for one in range(0, tiny.N_PATCHES, 8)), *some_sets(tiny.N_PATCHES, seed=1)]
    answers = [greedy(model, image, kept, max_new_tokens) for kept in sets]
    for answer in {tuple(answer) for answer in answers[:4]}:
        scores = AnswerScorer(model, image, QUESTION, answer).score(sets)
        # A longer answer may begin as this one does: compare as many tokens as this one has.
        expected = [tuple(other[: len(answer)]) == answer for other in answers]
        assert scores.exact_match.tolist() == expected
        assert any(expected)
    assert len({tuple(answer) for answer in answers}) > 1, "some sets must change the answer, or nothing was tested"


def greedy(model: VisionLanguageModel, image: Any, kept: np.ndarray, max_new_tokens: int) -> list[int]:
    written: list[int] = []
    while len(written) < max_new_tokens and (not written or written[-1] != 2):
        written.append(int(plain_logits(model, image, QUESTION, [*written, 0], kept)[-1].argmax()))
    return written


def test_the_end_token_counts(model: VisionLanguageModel) -> None:
    image, all_patches = tiny.picture(), [np.arange(tiny.N_PATCHES)]
    written = greedy(model, image, all_patches[0], 4)
    assert AnswerScorer(model, image, QUESTION, written).score(all_patches).exact_match.all()
    assert not AnswerScorer(model, image, QUESTION, [*written[:2], 2]).score(all_patches).exact_match.any()


def test_equal_sets_and_order_of_ids_and_of_sets_do_not_matter(model: VisionLanguageModel) -> None:
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    sets = some_sets(tiny.N_PATCHES)
    once = scorer.score(sets)
    mixed = scorer.score([one[::-1] for one in reversed(sets)] + sets)
    np.testing.assert_allclose(mixed.logprobs[: len(sets)][::-1], once.logprobs, atol=1e-6)
    np.testing.assert_array_equal(mixed.logprobs[: len(sets)][::-1], mixed.logprobs[len(sets) :])


def test_one_by_one_where_memory_is_short(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, sets = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER), some_sets(tiny.N_PATCHES)
    sets += [np.delete(np.arange(tiny.N_PATCHES), one) for one in range(20)]
    rows = [scorer.start.rows(torch.from_numpy(one)) for one in sets]
    assert len(scorer.start.batches(rows, 30)) < len(sets) / 2
    together = scorer.score(sets)
    monkeypatch.setattr(prefix_cache, "SHARE_OF_MEMORY", 0.0)
    assert [len(batch) for batch in scorer.start.batches(rows, 30)] == [1] * len(sets)
    np.testing.assert_allclose(scorer.score(sets).logprobs, together.logprobs, atol=1e-5)


def test_what_a_batch_shares_is_read_once(model: VisionLanguageModel) -> None:
    """All but one of the last four patches: the tower runs once, and the decoder reads the picture's start once."""
    n, lengths, towers = tiny.N_PATCHES, [], []
    decoder: Any = model.model.model.language_model
    hooks = [
        decoder.layers[0].register_forward_pre_hook(lambda module, args: lengths.append(tuple(args[0].shape[:2]))),
        model.model.model.vision_tower.register_forward_hook(lambda *_: towers.append(1)),
    ]
    try:
        scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
        sets = [np.delete(np.arange(n), one) for one in range(n - 4, n)]
        scorer.score(sets)
        scorer.score(sets)
    finally:
        for hook in hooks:
            hook.remove()
    before, after = len(scorer._beginning()) - n, len(scorer._ending()) + len(ANSWER) - 1
    assert lengths == [(1, before + n), (4, 3), (4, after), (4, 3), (4, after)]
    assert towers == [1]


def test_several_questions_share_one_picture(model: VisionLanguageModel) -> None:
    first = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    other = first.also("Is it a cat, or rather not?", [90, 91])
    assert other.start is first.start
    sets = some_sets(tiny.N_PATCHES)
    alone = AnswerScorer(model, tiny.picture(), "Is it a cat, or rather not?", [90, 91]).score(sets)
    together = score_together([first, other], sets)
    np.testing.assert_allclose(together[0].logprobs, first.score(sets).logprobs, atol=1e-6)
    np.testing.assert_allclose(together[1].logprobs, alone.logprobs, atol=1e-6)
    cut = flowcut.FlowCut(tokens=9)
    for shared, own in zip(
        score_cut_together([first, other], cut), [first.score_cut(cut), other.score_cut(cut)], strict=True
    ):
        np.testing.assert_allclose(shared.logprobs, own.logprobs, atol=1e-6)
    with pytest.raises(FlowCutError, match="one picture"):
        score_together([first, AnswerScorer(model, tiny.picture(1), QUESTION, ANSWER)], sets)


def test_a_class_token_that_the_model_reads_always_stays(tmp_path: Path) -> None:
    """Strategy `full`: the picture's first visual token is CLS, which is no patch and is not counted."""
    tiny.llava(vision_feature_select_strategy="full").save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    model = flowcut.load(tmp_path)
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    assert scorer.n_patches == tiny.N_PATCHES
    kept = np.array([3, 17, 40])
    with_cls = np.concatenate([[0], kept + 1])
    expected = plain(model, tiny.picture(), QUESTION, ANSWER, with_cls)
    np.testing.assert_allclose(scorer.score([kept]).logprobs[0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_left_as_it_is(tmp_path: Path, dtype: str) -> None:
    model = flowcut.load(tiny.checkpoint(tmp_path), dtype=dtype)
    scorer, sets = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER), some_sets(tiny.N_PATCHES)
    assert str(scorer.start.embeds.dtype) == f"torch.{dtype}"
    expected = np.stack([plain(model, tiny.picture(), QUESTION, ANSWER, kept) for kept in sets])
    np.testing.assert_allclose(scorer.score(sets).logprobs, expected, atol=0.1 if dtype == "bfloat16" else 0.02)


CUTS = [None, flowcut.FlowCut(tokens=9), flowcut.Cut("cls-attention", tokens=12), flowcut.Cut("random", tokens=5)]
CUTS += [flowcut.Cut(name, tokens=9) for name in ("divprune", "downsample", "visionzip")]
CUTS += [flowcut.Cut(name, tokens=9) for name, method in METHODS.items() if method.stage == "decoder"]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.title if cut else "whole")
@pytest.mark.parametrize("tokens", [1, 6])
def test_a_cut_is_scored_as_real_decoding_scores_it(model: VisionLanguageModel, cut: Any, tokens: int) -> None:
    run = flowcut.ask(model, tiny.picture(), QUESTION, cut, max_new_tokens=tokens)
    ids = [token.id for token in run.tokens]
    scores = AnswerScorer(model, tiny.picture(), QUESTION, ids).score_cut(cut)
    np.testing.assert_allclose(scores.logprobs[0], [token.logprob for token in run.tokens], atol=1e-5)
    assert scores.exact_match.tolist() == [True]
    changed = [*ids[:-1], (ids[-1] + 1) % 200 + 10]
    assert AnswerScorer(model, tiny.picture(), QUESTION, changed).score_cut(cut).exact_match.tolist() == [False]


def families(folder: Path) -> dict[str, VisionLanguageModel]:
    qwen = {kind: flowcut.load(tiny_qwen.checkpoint(kind, folder / kind)) for kind in tiny_qwen.KINDS}
    qwen3 = {kind: flowcut.load(tiny_qwen3.checkpoint(kind, folder / kind)) for kind in tiny_qwen3.KINDS}
    return {"LLaVA-NeXT": flowcut.load(tiny.next_checkpoint(folder / "next")), **qwen, **qwen3}


@pytest.fixture(scope="module")
def other_families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VisionLanguageModel]:
    return families(tmp_path_factory.mktemp("families"))


@pytest.mark.parametrize("name", ["LLaVA-NeXT", *tiny_qwen.KINDS, *tiny_qwen3.KINDS])
def test_other_families_score_whole_cuts(other_families: dict[str, VisionLanguageModel], name: str) -> None:
    """LLaVA-NeXT's FlowCut cuts once more inside the decoder, by the prompt alone; Qwen has positions of its own."""
    model, picture = other_families[name], tiny.picture(size=(250, 140))
    for cut in (None, flowcut.FlowCut(tokens=6), flowcut.Cut("stride", tokens=6)):
        run = flowcut.ask(model, picture, QUESTION, cut, max_new_tokens=5)
        scorer = AnswerScorer(model, picture, QUESTION, [token.id for token in run.tokens])
        scores = scorer.score_cut(cut)
        np.testing.assert_allclose(scores.logprobs[0], [token.logprob for token in run.tokens], atol=1e-5)
        assert scores.exact_match.all()
    with pytest.raises(FlowCutError, match=r"^LLaVA-NeXT|^Qwen.* does not read one token for each patch"):
        scorer.score([np.arange(4)])


def hooks_of(model: VisionLanguageModel) -> list[tuple[str, int, int, list[str]]]:
    parts = model.model.named_modules()
    return [(name, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m))) for name, m in parts]


def test_nothing_is_left_behind(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (model.model.config._attn_implementation, model.model.config.vision_config._attn_implementation)
    before = hooks_of(model)
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    scorer.score(some_sets(tiny.N_PATCHES))
    scorer.score_cut(flowcut.FlowCut(tokens=9))
    monkeypatch.setattr("flowcut.studies.scorer.read_on", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scorer.score(some_sets(tiny.N_PATCHES))
    with pytest.raises(ZeroDivisionError):
        scorer.score_cut(flowcut.FlowCut(tokens=9))
    assert hooks_of(model) == before
    assert settings == (model.model.config._attn_implementation, model.model.config.vision_config._attn_implementation)
    taken: list[bool] = []
    other = threading.Thread(target=lambda: taken.append(take(model.lock)))
    other.start()
    other.join()
    assert taken == [True]


def take(lock: Any) -> bool:
    taken = bool(lock.acquire(timeout=1))
    if taken:
        lock.release()
    return taken


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "is empty"),
        ([1.5], "whole numbers"),
        ([999], "below 260"),
        ([-1], "-1"),
        ([60, 2, 61], "after an end token"),
    ],
)
def test_answers_that_cannot_be(model: VisionLanguageModel, answer: list[Any], said: str) -> None:
    with pytest.raises(FlowCutError, match=said):
        AnswerScorer(model, tiny.picture(), QUESTION, answer)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (np.array([0, 64]), "patch 64: patches are 0 to 63"), (np.array([-1]), "patch -1"), (np.array([1, 1]), "once"),
        (np.array([0.5]), "float64"), (np.zeros((2, 2), int), "patch ids"), (np.ones(64, bool), "bool"),
    ],
    ids=str,
)  # fmt: skip
def test_sets_that_cannot_be(model: VisionLanguageModel, kept: Any, said: str) -> None:
    with pytest.raises(FlowCutError, match=said):
        AnswerScorer(model, tiny.picture(), QUESTION, ANSWER).score([kept])


def test_not_a_model() -> None:
    bare: Any = tiny.llava()
    with pytest.raises(FlowCutError, match=r"flowcut\.load"):
        AnswerScorer(bare, tiny.picture(), QUESTION, ANSWER)
