"""Cuts inside the language models of Qwen-VL, whose positions have three axes; FlowCut's two stages as released.

References are worked out here from the stock layers: one pass over all tokens, what is pruned hidden from the layers
after. What the release does is read off its `FlowCut_Qwen` (github.com/TungChintao/FlowCut): 8T of the patches leave
the encoder by attention times value norm, its last prune point after the last layer; decoder layer 1 keeps T tokens.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowcut
from tests import invariants, tiny, tiny_qwen, tiny_qwen3
from tests.encoder.test_vision import state_of
from tests.families import test_qwen_vl as qwen

LAYERS = 5
TWICE = flowcut.FlowCut(tokens=7)
CUTS = [TWICE, *(flowcut.Cut(name, tokens=7) for name in ("fastv", "dart", "pyramiddrop", "sparsevlm"))]
KINDS = [*tiny_qwen.KINDS, "Qwen3VL"]
generate = partial(invariants.generate, placeholders=(5, 6), tokens=6)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Any:
    if kind == "Qwen3VL":
        return tiny_qwen3.model(kind)
    return tiny_qwen.model(kind, layers=LAYERS)


@pytest.fixture(scope="module")
def processor(kind: str) -> Any:
    return (tiny_qwen3 if kind == "Qwen3VL" else tiny_qwen).processor(kind)


def given_to_decoder(model: Any, inputs: Any, cut: Any) -> tuple[dict[str, Any], Tensor, Any]:
    """What enters the decoder of a prompt prepared under a cut, its logits, and the session."""
    caught: list[dict[str, Any]] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(dict(kwargs)), with_kwargs=True
    )  # before those of the session: what the model itself hands over
    with flowcut.prune(model, cut) as session, torch.no_grad():
        logits = model(**session.prepare(inputs)).logits
    hook.remove()
    return caught[0], logits, session


def pruned_rows(record: Any, shape: tuple[int, int]) -> np.ndarray:
    """int64 [B, L], the layer after which each row of each prompt was pruned; -1: it was not."""
    pruned = np.full(shape, -1)
    for span, (prompt, (start, length)) in enumerate(zip(record.span_prompt, record.spans, strict=True)):
        if record.pruned_at_layer is not None:
            pruned[prompt, start : start + length] = record.pruned_at_layer[span, :length]
    return pruned


@torch.no_grad()
def by_hand(model: Any, given: dict[str, Any], pruned: np.ndarray) -> Tensor:
    """Logits [B, L, vocabulary] over all rows, each pruned one hidden as a key from the layers after its last."""
    text, hidden = model.model.language_model, given["inputs_embeds"]
    angles = text.rotary_emb(hidden, given["position_ids"][1:])
    length, when = hidden.shape[1], torch.from_numpy(pruned)
    live = torch.ones(hidden.shape[:2]) if given["attention_mask"] is None else given["attention_mask"]
    for index, layer in enumerate(text.layers):
        there = live.bool() & ((when < 0) | (when >= index))
        seen = torch.ones(length, length).tril().bool() & there[:, None, :]
        seen |= torch.eye(length).bool()
        mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
        out = layer(hidden, position_embeddings=angles, attention_mask=mask, position_ids=None, past_key_values=None)
        hidden = out[0] if isinstance(out, tuple) else out
        added = given.get("deepstack_visual_embeds") or []
        if index < len(added):
            hidden = hidden.masked_scatter(
                given["visual_pos_masks"][..., None], hidden[given["visual_pos_masks"]] + added[index]
            )
    logits: Tensor = model.lm_head(text.norm(hidden))
    return logits


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.method)
@pytest.mark.parametrize("prompts", [["one @ and two @ differ?"], ["@ what?", "a longer prompt, then @ what?"]])
def test_a_cut_hides_what_is_pruned_from_the_layers_after(
    model: Any, processor: Any, cut: Any, prompts: list[str]
) -> None:
    given, logits, session = given_to_decoder(model, qwen.asked(processor, *prompts), cut)
    record = session.language_record
    assert record is not None
    assert [len(record.kept(span)) for span in range(2)] == [7, 7]
    whole = by_hand(model, given, pruned_rows(record, given["inputs_embeds"].shape[:2]))
    torch.testing.assert_close(logits[:, -1], whole[:, -1], atol=2e-4, rtol=2e-4)
    live = record.rows_after != -2
    np.testing.assert_array_equal(
        record.positions_after[live], np.take_along_axis(record.positions_before, record.rows_after, 1)[live]
    )


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.method)
def test_decoding_after_the_cut_equals_a_full_prefill(model: Any, processor: Any, cut: Any) -> None:
    inputs = qwen.asked(processor, "one @ and two @ differ?")
    invariants.check_decoding(model, inputs, cut, generate, qwen.all_at_once, near=1e-4)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.method)
def test_a_budget_above_changes_nothing(model: Any, processor: Any, cut: Any) -> None:
    inputs = qwen.asked(processor, "@ and @ differ?", "a longer prompt, then @ what?")
    invariants.check_keeping_all(model, inputs, flowcut.Cut(cut.method, tokens=500), generate)


def test_nothing_is_left_after_an_error(model: Any, processor: Any) -> None:
    inputs = qwen.asked(processor, "@ what?")
    generate(model, inputs)
    before = state_of(model)
    broken = model.model.language_model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with flowcut.prune(model, TWICE) as session, pytest.raises(ZeroDivisionError):
        model(**session.prepare(inputs))
    broken.remove()
    assert state_of(model) == before


def test_two_stages(model: Any, processor: Any) -> None:
    inputs = qwen.asked(processor, "one @ and two @ differ?")
    with flowcut.prune(model, TWICE) as session, invariants.counted_at_decoder_input(model) as seen:
        generate(model, session.prepare(inputs))
    text = int((inputs["input_ids"] != 5).sum())
    assert seen[0] == text + 2 * 14
    assert session.record.kept_patch_ids.shape == (2, 4 * 14)
    told = session.language_record
    assert told is not None
    assert (told.layer, told.kept_visual_ids.shape) == (1, (2, 7))
    assert told.sources is not None
    assert session.final_patch_ids is not None
    assert session.ranking is not None
    assert len(session.final_patch_ids) == 4 * 7
    np.testing.assert_array_equal(np.sort(np.argsort(-session.ranking, kind="stable")[:28]), session.final_patch_ids)
    assert np.isin(session.final_patch_ids, session.record.image(0).kept_patch_ids[0]).all()
    assert any("twice the budget" in note for note in session.record.notes)
    assert not any("prunes once" in sentence for sentence in session.record.differs_from_release)
    with flowcut.prune(model, flowcut.FlowCut(tokens=7, variant="paper")) as session:
        session.prepare(inputs)
    assert session.language is None
    assert any("prunes once" in sentence for sentence in session.record.differs_from_release)


def test_the_decoders_score_is_the_released_one(model: Any, processor: Any) -> None:
    """(rel + sem) w of the last token at layer 1, softmaxes over the visual tokens: `compute_score_llm`."""
    given, _, session = given_to_decoder(model, qwen.asked(processor, "@ what?"), TWICE)
    record, shown = session.language_record, {}
    assert record is not None
    attention = model.model.language_model.layers[1].self_attn
    hook = attention.register_forward_pre_hook(lambda module, args, kwargs: shown.update(kwargs), with_kwargs=True)
    by_hand(model, given, np.full(given["inputs_embeds"].shape[:2], -1))
    hook.remove()
    start, length = record.spans[0]
    query, key, value = projected(attention, shown["hidden_states"], *shown["position_embeddings"])
    keys, values = key[:, start : start + length], value[:, start : start + length]
    scale = query.shape[-1] ** -0.5
    relation = (query[:, -1:] @ keys.mT * scale).softmax(-1).mean(0)[0]
    semantic = (value[:, -1:] @ values.mT * scale).softmax(-1).mean(0)[0]
    score = (relation + semantic) * values.mean(0).abs().sum(-1)
    np.testing.assert_allclose(record.score[0], score.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(record.kept(0), np.sort(score.numpy().argsort()[-7:]))


@torch.no_grad()
def projected(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [heads, L, d] of one prompt, turned by their positions, keys and values repeated."""

    def heads(name: str) -> Tensor:
        parts = getattr(attention, f"{name}_proj")(hidden)[0].unflatten(-1, (-1, attention.head_dim))
        normed: Tensor = getattr(attention, f"{name}_norm", nn.Identity())(parts)
        return normed.transpose(0, 1).repeat_interleave(4 // normed.shape[1], dim=0)

    def turned(part: Tensor) -> Tensor:
        half = part.shape[-1] // 2
        return part * cos[0] + torch.cat([-part[..., half:], part[..., :half]], -1) * sin[0]

    return turned(heads("q")), turned(heads("k")), heads("v")


def test_the_encoder_prunes_where_and_what_the_release_does(model: Any, processor: Any) -> None:
    """Replayed by its formulas, on whole merge groups: which layers, how many, and which go."""
    inputs = qwen.asked(processor, "@ what?")
    visual, grids = model.model.visual, inputs["image_grid_thw"]
    with torch.no_grad(), flowcut.record(visual, flowcut.FlowCut(tokens=8)) as rec:
        visual(inputs["pixel_values"], grid_thw=grids)
    record = rec.record
    with torch.no_grad():
        _, matrices = qwen.by_hand(visual, inputs["pixel_values"], grids, record)
    cells = qwen.order(visual, grids[0])
    groups = np.argsort(cells)[np.argsort(square_of(np.arange(len(cells)), int(grids[0, 2])), kind="stable")]
    rows = groups.reshape(-1, 4)  # of each merge group in reading order, its rows of the sequence
    live, past, layers = np.arange(len(rows)), None, len(matrices)
    for layer, (_, query, key, value) in enumerate(matrices):
        if len(live) <= 8:
            break
        patches = rows[live].ravel()
        share = (query[:, patches].mean(1, keepdim=True) @ key[:, patches].mT / query.shape[-1] ** 0.5).softmax(-1)
        share = share.mean(0)[0].numpy()
        score = (share * value[:, patches].mean(0).abs().sum(-1).numpy()).reshape(-1, 4).mean(1)
        past = score if past is None else 0.5 * past + 0.5 * score
        remaining = layers - layer - 1
        if remaining % 2 == 0:
            by_group = share.reshape(-1, 4).sum(1)
            entropy = -(by_group * np.log(by_group)).sum() / math.log(len(live))
            wanted = (len(live) - 8) / max(remaining, 1) ** 0.5 * (1 - entropy**2)
            left = max(len(live) - round(wanted), 8) if remaining else 8
            stays = np.sort(np.argsort(-past, kind="stable")[:left])
            live, past = live[stays], past[stays]
            step = next(step for step in record.steps if step.layer == layer)
            assert step.kept_after == 4 * len(live)
    cols = int(grids[0, 2])
    np.testing.assert_array_equal(np.unique(square_of(record.kept_patch_ids[0], cols)), live)


def square_of(patches: np.ndarray, cols: int) -> np.ndarray:
    """Which merge group, in reading order, each patch belongs to."""
    squares: np.ndarray = patches // cols // 2 * (cols // 2) + patches % cols // 2
    return squares


def test_positions_of_places_are_not_renumbered(model: Any) -> None:
    decoder = model.model.language_model
    cut = flowcut.Cut("sparsevlm", tokens=4, positions="renumbered")
    with pytest.raises(flowcut.InvalidCut, match="numbers visual tokens by time, row and column"):
        flowcut.record_language(decoder, (0, 8), cut)
    with pytest.raises(flowcut.InvalidCut, match="by their place in the picture"):
        flowcut.prune(model, cut)


def test_a_decoder_by_itself(model: Any) -> None:
    """Recorded without the rest of the model, whose positions then count themselves."""
    decoder = model.model.language_model
    embeds = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), flowcut.record_language(decoder, (3, 10), flowcut.FlowCut(tokens=4)) as recording:
        decoder(inputs_embeds=embeds, use_cache=False)
    assert recording.record.kept_visual_ids.shape == (2, 4)
    np.testing.assert_array_equal(recording.record.positions_before, np.tile(np.arange(20), (2, 1)))


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.method)
def test_a_single_layer_cannot_be_cut(cut: Any) -> None:
    small = tiny_qwen.model("Qwen2VL", layers=1)
    if cut.by_flowcut:
        with flowcut.prune(small, cut) as session:
            session.prepare(qwen.asked(tiny_qwen.processor("Qwen2VL"), "@ what?"))
        assert any("prunes once" in sentence for sentence in session.record.differs_from_release)
    else:
        with pytest.raises(flowcut.InvalidCut, match="single layer"):
            flowcut.prune(small, cut)


def test_a_picture_asked_from_a_folder(tmp_path: Any) -> None:
    loaded = flowcut.load(tiny_qwen.checkpoint("Qwen2_5_VL", tmp_path))
    run = flowcut.ask(loaded, tiny.picture(0, (250, 140)), "What is it?", TWICE, max_new_tokens=3)
    assert run.visual_tokens == 14
    assert run.language_record is not None
    assert run.positions == "kept"
