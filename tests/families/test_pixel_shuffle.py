"""InternVL, SmolVLM2 and Idefics3: what holds for tiles whose squares of patches a pixel shuffle joins."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import flowcut
from flowcut.criteria import METHODS
from flowcut.families import family_of
from flowcut.studies.scorer import AnswerScorer
from flowcut_lens.cli import main
from tests import invariants, tiny, tiny_shuffle
from tests.encoder.test_vision import state_of

KINDS = tiny_shuffle.INTERN + tiny_shuffle.SMOL
CUT = flowcut.FlowCut(tokens=17)
SIZES = [(100, 80), (40, 37), (45, 190), (300, 60)]
SHAPES = [(96, 96), (400, 100), (100, 400), (1000, 100), (100, 1000), (9, 7), (1, 1), (333, 217), (57, 290), (640, 480),
          (29, 700)]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Any:
    return tiny_shuffle.model(kind)


@pytest.fixture(scope="module")
def processor(kind: str) -> Any:
    return tiny_shuffle.processor(kind)


def asked(processor: Any, *prompts: str, first: int = 0, side: str = "left") -> Any:
    """Prompts with `@` for each picture; pictures of unequal sizes, those of one prompt in a list."""
    processor.tokenizer.padding_side = side
    images, seed = [], first
    for prompt in prompts:
        images.append([tiny.picture(s, SIZES[s % 4]) for s in range(seed, seed + prompt.count("@"))])
        seed += len(images[-1])
    texts = [prompt.replace("@", processor.image_token) for prompt in prompts]
    given = [image for own in images for image in own] if hasattr(processor, "image_seq_length") else images
    return processor(images=given, text=texts, return_tensors="pt", padding=True)


@pytest.fixture(scope="module")
def generate(kind: str) -> invariants.Generate:
    return partial(invariants.generate, placeholders=(tiny_shuffle.image_id(kind),), tokens=5)


def placeholders(kind: str, inputs: Any) -> int:
    return int((inputs["input_ids"] == tiny_shuffle.image_id(kind)).sum())


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=3000)], ids=["whole", "budget above"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_keeping_all_is_the_stock_answer_to_the_bit(
    kind: str, model: Any, processor: Any, generate: Any, cut: Any, options: dict
) -> None:
    inputs = asked(processor, "@ or @?", "a longer prompt with @ in it")
    session = invariants.check_keeping_all(model, inputs, cut, generate, **options)
    assert session.record.relay == ("cls" if kind in tiny_shuffle.INTERN else "proxy")
    assert session.record.patches_per_token == tiny_shuffle.SQUARES[kind] ** 2
    assert any("Nothing was cut" in note for note in session.record.notes) == (cut is not None)


def test_eager_attention_is_kept_and_cut_too(kind: str, processor: Any, generate: Any) -> None:
    eager, inputs = tiny_shuffle.model(kind, "eager"), asked(processor, "@ what?")
    invariants.check_keeping_all(eager, inputs, None, generate)
    with flowcut.prune(eager, CUT) as session:
        ours = session.prepare(inputs)["mm_encoder_outputs"]["image"].pooler_output
    with flowcut.prune(tiny_shuffle.model(kind), CUT) as session:
        other = session.prepare(inputs)["mm_encoder_outputs"]["image"].pooler_output
    torch.testing.assert_close(list(ours), list(other), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cut", [CUT, flowcut.Cut("cls-attention", tokens=17)], ids=lambda cut: cut.title)
def test_decoding_after_the_cut_equals_a_full_prefill(model: Any, processor: Any, generate: Any, cut: Any) -> None:
    invariants.check_decoding(model, asked(processor, "one @ and two @ differ?"), cut, generate)


@pytest.mark.parametrize("method", ["flowcut", "cls-attention"])
@pytest.mark.parametrize("tokens", [13, 17, 40])
@pytest.mark.parametrize("first", [0, 1])
def test_the_language_model_receives_the_budget(
    kind: str, model: Any, processor: Any, method: str, tokens: int, first: int
) -> None:
    inputs = asked(processor, "@ what?", first=first)
    tokens = min(tokens, placeholders(kind, inputs))
    cut = flowcut.Cut(method, tokens=tokens)
    with flowcut.prune(model, cut) as session, invariants.counted_at_decoder_input(model) as seen, torch.no_grad():
        prepared = session.prepare(inputs)
        model(**prepared)
    assert seen == [int((inputs["input_ids"] != tiny_shuffle.image_id(kind)).sum()) + tokens]
    (medium,) = session.media
    counts = np.bincount(medium.sources[:, 0], minlength=session.record.batch)
    assert counts.max() - counts.min() <= 1  # the tiles' even shares
    for row, kept in enumerate(session.record.kept_patch_ids):
        own = medium.source_patches[medium.sources[:, 0] == row][..., 1].flatten()
        assert sorted(own.tolist()) == [patch for patch in kept.tolist() if patch >= 0]


def test_too_few_tokens_for_the_tiles(model: Any, processor: Any) -> None:
    with flowcut.prune(model, flowcut.FlowCut(tokens=2)) as session, pytest.raises(flowcut.InvalidCut, match="tiles: "):
        session.prepare(asked(processor, "@ what?"))


def test_a_token_is_the_square_it_says(kind: str, model: Any, processor: Any) -> None:
    """The stock shuffle of the tower's own output at the kept squares, through the stock projector."""
    inputs, family, side = asked(processor, "@ what?"), family_of(model.config), tiny_shuffle.SQUARES[kind]
    towers: list[torch.Tensor] = []
    hook = family.vision_tower(model).register_forward_hook(lambda m, a, out: towers.append(out.last_hidden_state))
    with flowcut.prune(model, CUT) as session, torch.no_grad():
        tokens = torch.cat(list(session.prepare(inputs)["mm_encoder_outputs"]["image"].pooler_output))
    hook.remove()
    (medium,), cls = session.media, int(kind in tiny_shuffle.INTERN)
    columns = tiny_shuffle.SIDES[kind][0] // tiny_shuffle.SIDES[kind][1]
    squares = []
    for patches in medium.source_patches:
        row, ids = int(patches[0, 0]), patches[:, 1].tolist()
        top, left = ids[0] // columns, ids[0] % columns
        assert ids == [(top + y) * columns + left + x for y in range(side) for x in range(side)]
        assert top % side == left % side == 0
        kept = session.record.kept_patch_ids[row].tolist()
        squares.append(torch.cat([towers[0][row, cls + kept.index(patch)] for patch in ids]))
    with torch.no_grad():
        wanted = family.joined_projector(model)(torch.stack(squares))
    torch.testing.assert_close(tokens.view_as(wanted), wanted, atol=1e-4, rtol=1e-4)


def test_the_cut_tower_is_the_whole_one_with_the_cut_hidden(kind: str, model: Any, processor: Any) -> None:
    """Layer by layer in eager attention, what was cut before a layer masked there; the streamed record is that."""
    inputs = asked(processor, "@ what?")
    calls: list[torch.Tensor] = []
    with flowcut.prune(model, CUT) as session, torch.no_grad():
        session.prepare(inputs)
    record, cls = session.record, int(kind in tiny_shuffle.INTERN)
    encoder = session.recording.encoder
    hooks = [layer.register_forward_pre_hook(lambda m, args: calls.append(args[0])) for layer in encoder.layers]
    with torch.no_grad(), flowcut.prune(model) as whole:
        whole.prepare(inputs)
    for hook in hooks:
        hook.remove()
    for row in range(record.batch):
        own, hidden = record.image(row), calls[0][row : row + 1]
        kept = torch.arange(hidden.shape[1])
        for flow, layer in zip(own.layers, encoder.layers, strict=True):
            live = torch.from_numpy(np.concatenate([np.arange(cls), flow.patch_ids[0] + cls]))
            hidden = hidden[:, torch.isin(kept, live)]
            matrix, output = attention_of(kind, layer, hidden)
            np.testing.assert_allclose(flow.received_mass[0, 1 - cls :], matrix.mean(0).sum(0), atol=1e-3)
            entropy = -(matrix * np.log(np.maximum(matrix, 1e-45))).sum(-1).mean(-1)
            np.testing.assert_allclose(flow.row_entropy[0], entropy, atol=1e-4)
            if cls:
                np.testing.assert_allclose(flow.cls_row[0], matrix[:, 0], atol=1e-5)
                np.testing.assert_allclose(flow.cls_column[0], matrix[..., 0], atol=1e-5)
            hidden, kept = output, live


def attention_of(kind: str, layer: Any, hidden: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """[H, L, L], a layer's attention by its projections alone, and the layer's output."""
    intern = kind in tiny_shuffle.INTERN
    own = layer.attention if intern else layer.self_attn
    with torch.no_grad():
        normed = (layer.layernorm_before if intern else layer.layer_norm1)(hidden)
        query, key = own.q_proj(normed), own.k_proj(normed)
        if intern:
            query, key = own.q_norm(query), own.k_norm(key)
        heads = [part.view(-1, 4, 8).transpose(0, 1) for part in (query, key)]
        output = layer(hidden) if intern else layer(hidden, None)
    return (heads[0] @ heads[1].transpose(1, 2) / 8**0.5).softmax(-1).numpy(), output


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_whole_squares_are_cut_by_the_mean_of_their_scores(kind: str, model: Any, processor: Any, variant: str) -> None:
    side, (width, patch) = tiny_shuffle.SQUARES[kind], tiny_shuffle.SIDES[kind]
    columns = width // patch
    with flowcut.prune(model, flowcut.FlowCut(17, variant)) as session:
        session.prepare(asked(processor, "@ what?"))
    assert any("Whole squares" in note for note in session.record.notes)
    for row in range(session.record.batch):
        own = session.record.image(row)
        for flow in own.layers:
            ids = flow.patch_ids[0]
            square = ids // columns // side * (columns // side) + ids % columns // side
            assert (np.bincount(square)[np.unique(square)] == side**2).all()
            if flow.step is not None:
                left = own.layers[flow.layer + 1].patch_ids[0]
                np.testing.assert_array_equal(flow.margin[0] >= 0, np.isin(ids, left))
            if flow.layer == 0:
                for group in np.unique(square):
                    mean = flow.score[0][square == group].mean()
                    np.testing.assert_allclose(flow.cumulative[0][square == group], mean, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_reads_as_each_alone(model: Any, processor: Any, side: str) -> None:
    prompts = ["@ what?", "one rather longer prompt, and then @ is?"]
    together = asked(processor, *prompts, side=side)
    alone = [asked(processor, prompt, first=row) for row, prompt in enumerate(prompts)]
    invariants.check_padded_batch(model, together, alone, CUT)


def test_a_picture_in_the_second_turn(kind: str, model: Any, processor: Any, generate: Any) -> None:
    inputs = asked(processor, "@ what? a cat. And this? @", "no picture in the first turn. Then @")
    with flowcut.prune(model) as session:
        session.prepare(inputs)
        wanted = [min(len(medium.features), 17) for medium in session.media]
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        out = generate(model, prepared)
    assert out.new.shape == (2, 5)
    assert [len(medium.features) for medium in session.media] == wanted
    for row in range(2):
        text, ours = inputs["input_ids"][row], prepared["input_ids"][row]
        live = inputs["attention_mask"][row].bool() & (text != tiny_shuffle.image_id(kind))
        left = prepared["attention_mask"][row].bool() & (ours != tiny_shuffle.image_id(kind))
        assert torch.equal(text[live], ours[left])


def test_prompts_without_a_picture_pass_through(kind: str, model: Any, processor: Any, generate: Any) -> None:
    inputs = processor.tokenizer(["no picture here"], return_tensors="pt")
    with flowcut.prune(model, CUT) as session:
        assert torch.equal(generate(model, session.prepare(inputs)).new, generate(model, inputs).new)


def test_nothing_is_left_after_an_exception(kind: str, model: Any, processor: Any, generate: Any) -> None:
    inputs = asked(processor, "@ what?")
    generate(model, inputs)  # transformers installs its own capture hooks, to stay
    with flowcut.prune(model, CUT) as session:
        generate(model, session.prepare(inputs))
    before = state_of(model)
    broken = {**inputs, "pixel_values": inputs["pixel_values"][..., :2, :, :]}  # two colours
    with pytest.raises((RuntimeError, ValueError)), flowcut.prune(model, CUT) as session:
        session.prepare(broken)
    assert state_of(model) == before


def test_inputs_that_do_not_belong_together(kind: str, model: Any, processor: Any) -> None:
    inputs = asked(processor, "@ what?")
    first = int((inputs["input_ids"] == tiny_shuffle.image_id(kind)).nonzero()[0, 1])
    with flowcut.prune(model, CUT) as session:
        with pytest.raises(flowcut.FlowCutError, match="image placeholders"):
            session.prepare({**inputs, "input_ids": inputs["input_ids"][:, first + 2 :]})
        with pytest.raises(flowcut.FlowCutError, match=r"one kind at a time|takes no videos"):
            session.prepare({**inputs, "pixel_values_videos": inputs["pixel_values"]})
        with pytest.raises(flowcut.FlowCutError, match="must be"):
            session.prepare({**inputs, "pixel_values": inputs["pixel_values"][None]})
    with pytest.raises(flowcut.FlowCutError, match="not prepared"), flowcut.prune(model, CUT):
        model(**inputs)


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_painted_patches(kind: str, model: Any, size: tuple[int, int]) -> None:
    """In every tile, the patches that change are those whose boxes the paint, or its blur, reaches."""
    family, rng = family_of(model.config), np.random.default_rng(0)
    # SmolVLM resizes up to three times, and Lanczos reaches three pixels far each time.
    smol = kind in tiny_shuffle.SMOL
    processor = tiny_shuffle.processor(kind, **{"resample": Resampling.BOX} if smol else {})
    between = max(size) / (2 * tiny_shuffle.SIDES[kind][0]) if smol else 0.0
    geometries = family.geometries(model, processor.image_processor, size)
    embedding = flowcut.encoder.recording.find_encoder(family.vision_tower(model)).patch_embedding
    for _ in range(2):
        paint = invariants.paint_of(rng, size)
        black, painted = (Image.new("RGB", size) for _ in range(2))
        painted.paste("white", paint)
        made = [processor(images=[i], text=processor.image_token, return_tensors="pt") for i in (black, painted)]
        pixels = [one["pixel_values"].flatten(0, -4) for one in made]
        assert len(pixels[0]) == len(geometries)
        with torch.no_grad():
            apart = embedding(pixels[0]) - embedding(pixels[1])
        for geometry, change in zip(geometries, apart, strict=True):
            assert change.shape[1:] == (geometry.grid_rows, geometry.grid_cols)
            invariants.check_paint(geometry, change.abs().amax(0).flatten().numpy() > 1e-6, paint, between)


def test_the_methods_of_every_stage(kind: str, model: Any, processor: Any, generate: Any) -> None:
    reasons, inputs = flowcut.refusals(model), asked(processor, "@ what?")
    stages = {METHODS[name].stage for name in set(METHODS) - set(reasons)}
    assert stages == {"encoder", "projector", *(["decoder"] if kind in tiny_shuffle.INTERN else [])}
    for name in sorted(set(METHODS) - set(reasons)):
        cut = flowcut.Cut(name, tokens=17)
        with flowcut.prune(model, cut, record=False) as session:
            prepared = session.prepare(inputs)
            generate(model, prepared)
            inside = METHODS[name].stage == "decoder"
            assert placeholders(kind, prepared) == (placeholders(kind, inputs) if inside else 17), name
            kept = session.final_patch_ids
            assert kept is not None
            assert len(kept) % tiny_shuffle.SQUARES[kind] ** 2 == 0
            if METHODS[name].ranks and len(kept):
                ranking = session.ranking
                assert ranking is not None
                assert ranking[kept].min() >= np.delete(ranking, kept).max(initial=-np.inf), name
    for name, reason in reasons.items():
        assert reason.endswith("."), name
        assert reason.count("\n") == 0
        patches = {"patches": range(17)} if METHODS[name].takes_patches else {}
        cut = flowcut.Cut(name, tokens=17, **patches)
        with pytest.raises(flowcut.InvalidCut) as caught, flowcut.prune(model, cut) as session:
            session.prepare(inputs)
        assert str(caught.value) == reason


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(kind: str, processor: Any, generate: Any, dtype: torch.dtype) -> None:
    half = tiny_shuffle.model(kind).to(dtype)
    with flowcut.prune(half, CUT) as session:
        answer = generate(half, session.prepare(asked(processor, "@ what?")))
    assert answer.new.shape == (1, 5)
    assert all(np.isfinite(flow.cumulative).any() for flow in session.record.layers if flow.scored)


def test_asked_from_a_folder(kind: str, processor: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tiny_shuffle.checkpoint(kind, tmp_path / "model")
    loaded, image = flowcut.load(folder), tiny.picture(0, SIZES[0])
    whole = flowcut.ask(loaded, image, "What is it?", max_new_tokens=5)
    inputs = processor(images=[image], text=[whole.prompt], return_tensors="pt", add_special_tokens=False)
    stock = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [token.id for token in whole.tokens] == stock.tolist()
    assert whole.visual_tokens == placeholders(kind, inputs)
    run = flowcut.ask(loaded, image, "What is it?", CUT, max_new_tokens=5, answer_attention=True)
    assert run.visual_tokens == run.tower_tokens == 17
    assert run.record is not None
    assert run.record.batch == len(run.record.geometries) > 2
    assert [geometry.view for geometry in run.record.geometries][:: len(run.record.geometries) - 1] == [
        "crop row 1, column 1",
        "thumbnail",
    ]
    assert run.answer_attention is not None
    assert run.answer_attention.source_patches.shape == (17, tiny_shuffle.SQUARES[kind] ** 2, 2)
    scorer = AnswerScorer(loaded, image, "What is it?", [token.id for token in run.tokens])
    logprobs = scorer.score_cut(CUT).logprobs[0]
    np.testing.assert_allclose(logprobs, [token.logprob for token in run.tokens], atol=1e-5)
    assert not scorer.takes_patches
    with pytest.raises(flowcut.InvalidCut, match=rf"sees this picture as {whole.visual_tokens} tokens: choose 1 to"):
        flowcut.ask(loaded, image, "What is it?", flowcut.FlowCut(tokens=whole.visual_tokens + 1))

    image.save(tmp_path / "a.png")
    options = ["--model", str(folder), "--tokens", "17", "--max-new-tokens", "5", "--out", str(tmp_path / "out")]
    assert main.main(["ask", str(tmp_path / "a.png"), "What is it?", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["visual_tokens"] == 17


def test_a_checkpoint_in_the_files_of_the_published_ones(kind: str, tmp_path: Path) -> None:
    loaded = flowcut.load(tiny_shuffle.published(kind, tmp_path))
    run = flowcut.ask(loaded, tiny.picture(0, SIZES[0]), "Who?", CUT, max_new_tokens=3)
    own = flowcut.load(tiny_shuffle.checkpoint(kind, tmp_path / "own"))
    same = flowcut.ask(own, tiny.picture(0, SIZES[0]), "Who?", CUT, max_new_tokens=3)
    assert (run.prompt, run.visual_tokens, run.answer) == (same.prompt, 17, same.answer)
    assert run.record is not None
    assert run.record.batch == len(run.record.geometries)


@pytest.mark.parametrize(("cut", "more"), [(None, 0.0), (CUT, 0.1)], ids=["whole", "cut"])
def test_operations_are_those_that_torch_counts(kind: str, tmp_path: Path, cut: Any, more: float) -> None:
    """Over all tiles, attention included; torch counts all n * n pairs of the decoder's attention, and scoring."""
    loaded = flowcut.load(tiny_shuffle.checkpoint(kind, tmp_path))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run = flowcut.ask(loaded, tiny.picture(0, SIZES[0]), "What?", cut, record=False, max_new_tokens=3)
    ours = run.flops.total + 4 * (4 * 8) * sum(n * (n - 1) / 2 for n in run.layer_tokens)
    assert ours <= counter.get_total_flops() <= (1 + more) * ours
    parts = {name.rsplit(".", 1)[-1]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    assert parts[type(loaded.family.projector(loaded.model)).__name__] == run.flops.projector
    assert cut is not None or parts[type(loaded.family.vision_tower(loaded.model)).__name__] == run.flops.vision
