"""Qwen3-VL and Qwen3.5: what holds for every family, deepstack cut with its tokens, videos with times in the text."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.video_utils import VideoMetadata

import flowcut
from flowcut.criteria import METHODS
from flowcut.families import family_of
from flowcut_lens.cli import main
from tests import invariants, tiny, tiny_qwen3, tiny_video
from tests.encoder.test_vision import state_of
from tests.families import test_qwen_vl as qwen

ONCE = flowcut.FlowCut(tokens=7, variant="paper")
CUTS = [ONCE, flowcut.FlowCut(tokens=7), flowcut.Cut("divprune", tokens=7), flowcut.Cut("random", tokens=7)]
NEAR = {"Qwen3VL": 1e-5, "Qwen3_5": 1e-4}
"""Linear attention is computed in chunks in a prefill and token by token after it, which round in other places."""
TAIL = {"Qwen3VL": "", "Qwen3_5": "<think>\n\n</think>\n\n"}
generate = partial(invariants.generate, placeholders=(5, 6), tokens=6)


@pytest.fixture(scope="module", params=tiny_qwen3.KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Any:
    return tiny_qwen3.model(kind)


@pytest.fixture(scope="module")
def processor(kind: str) -> Any:
    return tiny_qwen3.processor(kind)


def films(processor: Any, *prompts: str, frames: int = 4, size: tuple[int, int] = (150, 100)) -> Any:
    """Prompts with `@` for each video, as the family's own video processor makes them."""
    processor.tokenizer.padding_side = "left"
    videos = [tiny_video.clip(seed, frames, size) for seed in range("".join(prompts).count("@"))]
    rate = [VideoMetadata(total_num_frames=frames, fps=3.0, frames_indices=list(range(frames))) for _ in videos]
    texts = [prompt.replace("@", tiny_qwen3.VIDEO) for prompt in prompts]
    return processor(
        videos=videos, text=texts, return_tensors="pt", padding=True, do_sample_frames=False, video_metadata=rate
    )


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=500)], ids=["whole", "budget above"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_keeping_all_is_the_stock_answer_to_the_bit(model: Any, processor: Any, cut: Any, options: dict) -> None:
    inputs = qwen.asked(processor, "@ and @ differ?", "a longer prompt, then @ what?")
    session = invariants.check_keeping_all(model, inputs, cut, generate, **options)
    assert session.record.batch == 3
    assert (session.record.relay, session.record.patches_per_token) == ("proxy", 4)


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=500)], ids=["whole", "budget above"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_keeping_all_of_a_video(model: Any, processor: Any, cut: Any, options: dict) -> None:
    inputs = films(processor, "@ and @ differ?", "a longer prompt, then @ what?")
    invariants.check_keeping_all(model, inputs, cut, generate, **options)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut.method} {cut.variant}")
@pytest.mark.parametrize("prompt", ["one @ and two @ differ?", "video @ what?"])
def test_decoding_after_the_cut_equals_a_full_prefill(
    kind: str, model: Any, processor: Any, cut: Any, prompt: str
) -> None:
    inputs = films(processor, prompt) if "video" in prompt else qwen.asked(processor, prompt)
    invariants.check_decoding(model, inputs, cut, generate, qwen.all_at_once, near=NEAR[kind])


def test_nothing_is_left_on_the_model(model: Any, processor: Any) -> None:
    inputs = qwen.asked(processor, "@ what?")
    generate(model, inputs)  # transformers installs its own capture hooks, to stay
    before = state_of(model)
    broken = {**inputs, "pixel_values": inputs["pixel_values"][:, :50]}
    for cut in CUTS:
        with flowcut.prune(model, cut) as session:
            generate(model, session.prepare(inputs))
        with pytest.raises(RuntimeError), flowcut.prune(model, cut) as session:
            session.prepare(broken)
    assert state_of(model) == before


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut.method} {cut.variant}")
def test_the_language_model_receives_the_budget(kind: str, model: Any, processor: Any, cut: Any) -> None:
    inputs = qwen.asked(processor, "one @ and two @ differ?")
    text = int((inputs["input_ids"] != 5).sum())
    twice = cut.by_flowcut and cut.variant == "official" and kind == "Qwen3VL"
    with flowcut.prune(model, cut) as session, invariants.counted_at_decoder_input(model) as seen:
        prepared = session.prepare(inputs)
        generate(model, prepared)
    assert seen == [text + (28 if twice else 14), 1, 1, 1, 1, 1]
    assert prepared["mm_token_type_ids"].shape == prepared["input_ids"].shape
    assert session.final_patch_ids is not None
    assert len(session.final_patch_ids) == 28


def test_survivors_keep_their_positions(model: Any, processor: Any) -> None:
    inputs = qwen.asked(processor, "@ and @ differ?", "then @ what?")
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")
    full, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
    with flowcut.prune(model, ONCE) as session:
        prepared = session.prepare(inputs)
    medium = 0
    for row in range(2):
        live, whole = prepared["attention_mask"][row].bool(), inputs["attention_mask"][row].bool()
        ids, positions = prepared["input_ids"][row][live], prepared["position_ids"][:, row][:, live]
        assert positions[0].tolist() == list(range(len(ids)))
        stays = (inputs["input_ids"][row] != 5) & whole
        places, begin = (inputs["input_ids"][row] == 5).nonzero()[:, 0], 0
        for _ in range(2 - row):
            count = int(inputs["image_grid_thw"][medium].prod()) // 4
            stays[places[begin : begin + count][session.media[medium].places]] = True
            begin, medium = begin + count, medium + 1
        assert torch.equal(positions[1:], full[:, row][:, stays])


@pytest.mark.parametrize("cut", [None, *CUTS[:2], flowcut.Cut("cls-attention", tokens=7, layer=2)], ids=str)
def test_the_cut_encoder_is_the_whole_one_with_the_dead_hidden(model: Any, processor: Any, cut: Any) -> None:
    """Tokens, and deepstack features, of what stays; the record says what eager attention over the living does."""
    visual, inputs = model.model.visual, qwen.asked(processor, "@ @ @")
    grids = inputs["image_grid_thw"]
    with torch.no_grad():
        with flowcut.record(visual, cut) as rec:
            given = visual(inputs["pixel_values"], grid_thw=grids)
        record = rec.record
        merged, matrices = qwen.by_hand(visual, inputs["pixel_values"], grids, record)
        early = deepstack_by_hand(visual, inputs, record)
    kept = np.concatenate(
        [
            np.isin(qwen.order(visual, grid).reshape(-1, 4)[:, 0], record.image(b).kept_patch_ids[0])
            for b, grid in enumerate(grids)
        ]
    )
    living = torch.from_numpy(kept)
    torch.testing.assert_close(given.pooler_output[living], merged[living], atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(getattr(given, "deepstack_features", None) or [], early, strict=True):
        torch.testing.assert_close(ours[living], theirs[living], atol=2e-4, rtol=1e-4)
    first = 0
    for picture, grid in enumerate(grids):
        own, cells = record.image(picture), qwen.order(visual, grid)
        for flow, (weights, _, _, _) in zip(own.layers, matrices, strict=True):
            places = first + np.argsort(cells)[flow.patch_ids[0]]
            matrix = weights[:, places][:, :, places].numpy()
            np.testing.assert_allclose(flow.received_mass[0, 1:], matrix.mean(0).sum(0), atol=1e-3)
            entropy = -(matrix * np.log(np.maximum(matrix, 1e-45))).sum(-1).mean(-1)
            np.testing.assert_allclose(flow.row_entropy[0], entropy, atol=1e-4)
        first += len(cells)


def deepstack_by_hand(visual: Any, inputs: Any, record: Any) -> list[torch.Tensor]:
    """What the early mergers make of each layer's rows, all of them there and the dead only hidden."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        block.norm1.register_forward_pre_hook(lambda module, args, index=index: seen.update({index: args[0]}))
        for index, block in enumerate(visual.blocks)
    ]
    qwen.by_hand(visual, inputs["pixel_values"], inputs["image_grid_thw"], record)  # its own loop comes last
    for hook in hooks:
        hook.remove()
    after = [index + 1 for index in getattr(visual, "deepstack_visual_indexes", ())]
    return [
        merger(seen[index]) for index, merger in zip(after, getattr(visual, "deepstack_merger_list", ()), strict=True)
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cut", CUTS[:3], ids=lambda cut: f"{cut.method} {cut.variant}")
def test_a_padded_batch_reads_as_each_alone(model: Any, processor: Any, side: str, cut: Any) -> None:
    prompts = ["@ and @ differ?", "one rather longer prompt, and then @ what?"]
    together = qwen.asked(processor, *prompts, side=side)
    alone = [qwen.asked(processor, prompts[0]), qwen.asked(processor, prompts[1], first=2)]
    if cut.variant == "official" and cut.by_flowcut and side == "right":
        return  # cut inside the decoder, whose rows are then no longer those of the prompt
    if cut.variant == "official" and cut.by_flowcut:
        with flowcut.prune(model, cut) as session:
            answers = generate(model, session.prepare(together)).new
            each = [generate(model, session.prepare(inputs)).new[0] for inputs in alone]
        assert torch.equal(answers, torch.stack(each))
    else:
        invariants.check_padded_batch(model, together, alone, cut)


def test_a_picture_in_the_second_turn(kind: str, model: Any, processor: Any) -> None:
    turns = "<|im_start|>user\n@ what?<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n<|im_start|>user\n@ and this?"
    inputs = qwen.asked(processor, turns)
    with flowcut.prune(model, ONCE) as session:
        prepared = session.prepare(inputs)
        out = generate(model, prepared)
        logits = qwen.continued(model, prepared, out.sequences)[:, -7:-1]
        torch.testing.assert_close(logits, torch.stack(out.logits, 1), atol=NEAR[kind], rtol=NEAR[kind])
    text = inputs["input_ids"][inputs["input_ids"] != 5]
    assert torch.equal(prepared["input_ids"][prepared["input_ids"] != 5], text)


def test_every_method_runs_or_says_why_not(kind: str, model: Any, processor: Any) -> None:
    reasons = flowcut.refusals(model)
    video = {name for name, method in METHODS.items() if method.of_videos}
    single = {"visionzip", "vispruner", "scope", "prunesid", "apet", "holov", "cdpruner", "downsample", *video}
    decoder = {name for name, method in METHODS.items() if method.stage == "decoder"}
    assert set(reasons) == (single if kind == "Qwen3VL" else single | decoder)
    if kind == "Qwen3_5":
        assert all("every fourth attends" in reasons[name] for name in decoder)
    inputs = qwen.asked(processor, "@ what?")
    for name in sorted(set(METHODS) - set(reasons)):
        patches = {"patches": range(7)} if name == "chosen" else {}
        with torch.no_grad(), flowcut.prune(model, flowcut.Cut(name, tokens=7, **patches), record=False) as session:
            assert torch.isfinite(model(**session.prepare(inputs)).logits).all()
        assert session.final_patch_ids is not None
        assert len(session.final_patch_ids) == 28
        if METHODS[name].ranks:
            ranking = session.ranking
            assert ranking is not None
            assert ranking[session.final_patch_ids].min() >= np.delete(ranking, session.final_patch_ids).max()


def test_a_video_keeps_its_times_and_the_budget(kind: str, model: Any, processor: Any) -> None:
    inputs = films(processor, "@ and @ differ?")
    whole = model.model.get_rope_index(
        input_ids=inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"], attention_mask=inputs["attention_mask"],
    )[0]  # fmt: skip
    is_video = inputs["input_ids"][0] == 6
    places = is_video.nonzero()[:, 0].split([int(grid.prod()) // 4 for grid in inputs["video_grid_thw"]])
    for cut in CUTS:
        with flowcut.prune(model, cut) as session:
            prepared = session.prepare(inputs)
            generate(model, prepared)
        assert session.language_record is None
        stays = ~is_video
        for own, medium in zip(places, session.media, strict=True):
            assert len(medium.features) == 7
            stays[own[medium.places]] = True
        assert torch.equal(prepared["position_ids"][1:], whole[..., stays])
        assert torch.equal(prepared["input_ids"][0], inputs["input_ids"][0][stays])
        assert session.final_patch_ids is not None
    if kind == "Qwen3VL":
        with (
            flowcut.prune(model, flowcut.Cut("fastv", tokens=7)) as session,
            pytest.raises(flowcut.InvalidCut, match="text between the visual tokens"),
        ):
            session.prepare(inputs)


@pytest.mark.parametrize("size", qwen.SHAPES, ids=str)
def test_painted_patches(size: tuple[int, int]) -> None:
    """Patches that change where the original is painted are those whose boxes the paint, or its blur, reaches."""
    processor, model = tiny_qwen3.processor("Qwen3VL", most_groups=60), tiny_qwen3.model("Qwen3VL")
    (geometry,) = family_of(model.config).geometries(model, processor.image_processor, size)
    encoder = flowcut.encoder.recording.find_encoder(model)
    rng, boxes = np.random.default_rng(0), geometry.boxes()
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == pytest.approx(size)
    for _ in range(3):
        paint = invariants.paint_of(rng, size, part=5)
        black, painted = (Image.new("RGB", size) for _ in range(2))
        painted.paste("white", paint)
        pixels = [processor.image_processor(images=[picture], return_tensors="pt") for picture in (black, painted)]
        assert pixels[0]["image_grid_thw"][0].tolist() == [1, geometry.grid_rows, geometry.grid_cols]
        with torch.no_grad():
            embedded = [model.model.visual.patch_embed(picture["pixel_values"]) for picture in pixels]
        changed = np.zeros(len(boxes), dtype=bool)
        rows = (embedded[0] - embedded[1]).abs().amax(1).numpy() > 1e-6
        changed[qwen.encoder_order(encoder, geometry)[rows]] = True
        invariants.check_paint(geometry, changed, paint)


@pytest.mark.parametrize("cap", [None, True])
@pytest.mark.parametrize("size", [(96, 96), (400, 100), (100, 1000), (333, 217), (640, 480), (29, 700)], ids=str)
def test_painted_frames(size: tuple[int, int], cap: bool | None) -> None:
    """Of five frames in slices of two, the patches that change are those whose boxes the paint or its blur reaches."""
    processor, model = tiny_qwen3.processor("Qwen3VL"), tiny_qwen3.model("Qwen3VL")
    processor.video_processor.cap_pixels_per_frame = cap
    (width, height), family = size, family_of(model.config)
    geometries = family.frame_geometries(model, processor.video_processor, size, 5)
    assert [geometry.view for geometry in geometries] == ["frames 1 to 2", "frames 3 to 4", "frame 5"]
    rng = np.random.default_rng(0)
    for frame in (0, 3, 4):
        left, top, right, bottom = paint = invariants.paint_of(rng, size)
        black = np.zeros((5, height, width, 3), np.uint8)
        painted = black.copy()
        painted[frame, top:bottom, left:right] = 255
        made = [
            processor.video_processor([video], return_tensors="pt", do_sample_frames=False)
            for video in (black, painted)
        ]
        slices, rows, cols = made[0]["video_grid_thw"][0].tolist()
        apart = (made[0]["pixel_values_videos"] - made[1]["pixel_values_videos"]).abs().amax(1)
        grid = apart.view(slices, rows // 2, cols // 2, 2, 2).transpose(2, 3).reshape(slices, -1).numpy() > 1e-3
        for place, (geometry, changed) in enumerate(zip(geometries, grid, strict=True)):
            assert (geometry.grid_rows, geometry.grid_cols) == (rows, cols)
            if place != frame // 2:
                assert not changed.any()
                continue
            invariants.check_paint(geometry, changed, paint)


def test_asked_from_a_folder(kind: str, processor: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tiny_qwen3.checkpoint(kind, tmp_path / "model")
    loaded = flowcut.load(folder)
    image = tiny.picture(0, (250, 140))
    whole = flowcut.ask(loaded, image, "What is it?", max_new_tokens=5)
    text = f"<|im_start|>user\n{tiny_qwen3.PICTURE}What is it?<|im_end|>\n<|im_start|>assistant\n{TAIL[kind]}"
    assert whole.prompt == text
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    stock = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [token.id for token in whole.tokens] == stock.tolist()
    run = flowcut.ask(loaded, image, "What is it?", ONCE, max_new_tokens=5, answer_attention=True)
    assert run.visual_tokens == 7
    assert run.prompt_tokens == whole.prompt_tokens - whole.visual_tokens + 7
    assert run.record is not None
    assert run.record.geometry is not None
    assert run.record.geometry.seen_box() == (0, 0, 250, 140)
    assert 0 < run.flops.total < whole.flops.total
    with pytest.raises(flowcut.InvalidCut, match=rf"sees this picture as {whole.visual_tokens} tokens: choose 1 to"):
        flowcut.ask(loaded, image, "What is it?", flowcut.FlowCut(tokens=whole.visual_tokens + 1))
    image.save(tmp_path / "a.png")
    options = ["--model", str(folder), "--tokens", "7", "--method", "divprune", "--max-new-tokens", "5"]
    said = ["--out", str(tmp_path / "out"), "--json"]
    assert main.main(["ask", str(tmp_path / "a.png"), "What is it?", *options, *said]) == 0
    assert json.loads(capsys.readouterr().out)["visual_tokens"] == 7
    assert Image.open(tmp_path / "out" / "mask.png").size == (250, 140)


def test_a_video_asked_from_a_folder(kind: str, tmp_path: Path) -> None:
    loaded = flowcut.load(tiny_qwen3.checkpoint(kind, tmp_path))
    frames = list(tiny_video.clip(0, 4, (100, 70)))
    whole = flowcut.ask(loaded, frames, "What happens?", max_new_tokens=4)
    run = flowcut.ask(loaded, frames, "What happens?", flowcut.FlowCut(tokens=7), max_new_tokens=4)
    assert run.visual_tokens == 7 < whole.visual_tokens
    assert run.record is not None
    assert [geometry.view for geometry in run.record.geometries] == ["frames 1 to 2", "frames 3 to 4"]
    assert any("as if there were 24 a second" in note for note in run.notes)


@pytest.mark.parametrize(
    ("cut", "more"),
    [(None, 0), (ONCE, 0.01), (flowcut.FlowCut(tokens=7), 0.01), (flowcut.Cut("fastv", tokens=7), 0.01)],
)
def test_flops_are_what_torch_counts(tmp_path: Path, cut: Any, more: float) -> None:
    """Deepstack's mergers among them; as for LLaVA in `tests/generation/test_run.py`."""
    loaded = flowcut.load(tiny_qwen3.checkpoint("Qwen3VL", tmp_path))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run = flowcut.ask(loaded, tiny.picture(0, (250, 140)), "What is it?", cut, record=False, max_new_tokens=4)
    ours = run.flops.total + 4 * 4 * 8 * sum(n * (n - 1) / 2 for n in run.layer_tokens)
    assert ours <= counter.get_total_flops() <= (1 + more) * ours
    counted = counter.get_flop_counts().items()
    mergers = [
        sum(flops.values()) for name, flops in counted if re.search(r"\.(merger|deepstack_merger_list\.\d)$", name)
    ]
    assert (len(mergers), sum(mergers)) == (4, run.flops.projector)


@pytest.mark.parametrize("cut", [None, *CUTS, flowcut.Cut("fastv", tokens=7)], ids=str)
def test_the_answer_depends_on_deepstack(processor: Any, cut: Any) -> None:
    """What is cut with the tokens is read: without it the logits are others, far beyond rounding."""
    model, inputs = tiny_qwen3.model("Qwen3VL"), qwen.asked(processor, "@ and @ differ?")
    found = []
    for _ in range(2):
        with flowcut.prune(model, cut) as session, torch.no_grad():
            prepared = session.prepare(inputs)
            found.append(model(**prepared).logits[:, -1])
        layers = prepared["mm_encoder_outputs"]["image"].deepstack_features
        tokens = [len(medium.features) for medium in session.media]
        assert [[len(one) for one in layer] for layer in layers] == [tokens] * 3
        for merger in model.model.visual.deepstack_merger_list:
            for weight in merger.linear_fc2.parameters():
                weight.data.zero_()
    assert (found[0] - found[1]).abs().max() > 0.1


def test_positions_in_the_tower_are_interpolated_for_every_grid(model: Any) -> None:
    """Of the 8 x 8 learned positions a larger grid has more: patches that stay have those of the whole picture."""
    encoder = flowcut.encoder.recording.find_encoder(model)
    for grid in ((2, 2), (8, 8), (10, 18), (16, 8), (2, 34)):
        wanted = qwen.order(model.model.visual, torch.tensor([1, *grid]))
        np.testing.assert_array_equal(encoder.row_order(*grid).numpy(), wanted)  # type: ignore[attr-defined]
