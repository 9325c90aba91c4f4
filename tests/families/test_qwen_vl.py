"""Qwen2-VL and Qwen2.5-VL: whole merge groups cut, windows and positions right, stock generate."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

import flowcut
from flowcut.families import family_of
from flowcut.records.vision import PADDING_ID, FlowRecord
from flowcut_lens.cli import main
from tests import invariants, tiny, tiny_qwen, tiny_video
from tests.encoder.test_vision import state_of

CUT = flowcut.FlowCut(tokens=7, variant="paper")
"""In one stage; for two, as released, see test_qwen_stages."""
SIZES = [(250, 140), (90, 300), (61, 57), (400, 33)]
SHAPES = [(300, 300), (400, 100), (100, 400), (1000, 100), (100, 1000), (13, 11), (1, 1), (333, 217), (57, 290),
          (640, 480), (29, 700), (1500, 900)]  # fmt: skip


@pytest.fixture(scope="module", params=tiny_qwen.KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Any:
    return tiny_qwen.model(kind)


@pytest.fixture(scope="module")
def processor(kind: str) -> Any:
    return tiny_qwen.processor(kind)


def asked(processor: Any, *prompts: str, first: int = 0, side: str = "left") -> Any:
    """What the processor makes of prompts with `@` for each picture; pictures are of unequal sizes."""
    count = sum(prompt.count("@") for prompt in prompts)
    images = [tiny.picture(seed, SIZES[seed % len(SIZES)]) for seed in range(first, first + count)]
    processor.tokenizer.padding_side = side
    texts = [prompt.replace("@", tiny_qwen.PICTURE) for prompt in prompts]
    return processor(images=images or None, text=texts, return_tensors="pt", padding=True)


def filmed(processor: Any, slices: int = 3) -> dict[str, Any]:
    """A prompt with a video, made of as many pictures as it has slices in time."""
    frames = [tiny.picture(seed, (150, 100)) for seed in range(slices)]
    pictures = processor.image_processor(images=frames, return_tensors="pt")
    _, rows, cols = pictures["image_grid_thw"][0].tolist()
    places = "<|video_pad|>" * (slices * rows * cols // 4)
    text = processor.tokenizer([tiny_qwen.VIDEO.replace("<|video_pad|>", places) + "what happens?"])
    ids = torch.tensor(text["input_ids"])
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": 2 * (ids == 6).int(),
        "pixel_values_videos": pictures["pixel_values"], "video_grid_thw": torch.tensor([[slices, rows, cols]]),
    }  # fmt: skip


generate = partial(invariants.generate, placeholders=(5, 6), tokens=6)


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=500)], ids=["whole", "budget above"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_keeping_all_is_the_stock_answer_to_the_bit(model: Any, processor: Any, cut: Any, options: dict) -> None:
    inputs = asked(processor, "@ and @ differ?", "a longer prompt, then @ what?")
    session = invariants.check_keeping_all(model, inputs, cut, generate, **options)
    assert session.record.batch == 3
    assert (session.record.relay, session.record.patches_per_token) == ("proxy", 4)


def test_nothing_is_left_on_the_model(model: Any, processor: Any) -> None:
    inputs = asked(processor, "@ what?")
    generate(model, inputs)  # transformers installs its own capture hooks, to stay
    before = state_of(model)
    with flowcut.prune(model, CUT) as session:
        generate(model, session.prepare(inputs))
    assert state_of(model) == before
    broken = {**inputs, "pixel_values": inputs["pixel_values"][:, :50]}
    with pytest.raises(RuntimeError), flowcut.prune(model, CUT) as session:
        session.prepare(broken)
    assert state_of(model) == before


def all_at_once(prepared: Any, sequences: torch.Tensor) -> Any:
    """Prompt and answer as the input of one pass; answers continue the positions of the prompt."""
    new = sequences.shape[1] - prepared["input_ids"].shape[1]
    positions = prepared["position_ids"]
    more = positions[..., -1:] + torch.arange(1, new + 1)
    whole = invariants.all_at_once(prepared, sequences)
    whole["position_ids"] = torch.cat([positions, more.expand(4, -1, -1)], dim=-1)
    whole.pop("mm_token_type_ids", None)
    return whole


def continued(model: Any, prepared: Any, sequences: torch.Tensor) -> torch.Tensor:
    """Logits of one pass over prompt and answer, without a cache."""
    with torch.no_grad():
        logits: torch.Tensor = model(**all_at_once(prepared, sequences)).logits
    return logits


@pytest.mark.parametrize("prompt", ["@ what?", "one @ and two @ differ?", "video"])
def test_decoding_after_the_cut_equals_a_full_prefill(model: Any, processor: Any, prompt: str) -> None:
    inputs = filmed(processor) if prompt == "video" else asked(processor, prompt)
    invariants.check_decoding(model, inputs, CUT, generate, all_at_once)


def test_the_language_model_receives_the_budget(model: Any, processor: Any) -> None:
    inputs = asked(processor, "one @ and two @ differ?")
    text = int((inputs["input_ids"] != 5).sum())
    with flowcut.prune(model, CUT) as session, invariants.counted_at_decoder_input(model) as seen:
        prepared = session.prepare(inputs)
        generate(model, prepared)
    assert seen[0] == text + 14
    assert seen[1:] == [1] * (len(seen) - 1)
    assert (prepared["input_ids"] == 5).sum() == 14
    assert [len(tokens) for tokens in prepared["mm_encoder_outputs"]["image"].pooler_output] == [7, 7]
    assert session.record.kept_patch_ids.shape == (2, 28)


def test_survivors_keep_their_positions(model: Any, processor: Any) -> None:
    inputs = asked(processor, "@ and @ differ?", "then @ what?")
    known = {name: inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")}
    full, _ = model.model.get_rope_index(**known)
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
    picture = 0
    for row in range(2):
        live = prepared["attention_mask"][row].bool()
        ids, positions = prepared["input_ids"][row][live], prepared["position_ids"][:, row][:, live]
        assert positions[0].tolist() == list(range(len(ids)))
        text = inputs["input_ids"][row] != 5
        text &= inputs["attention_mask"][row].bool()
        assert torch.equal(positions[1:][:, ids != 5], full[:, row][:, text])
        visual = full[:, row][:, inputs["input_ids"][row] == 5]
        for _ in range(2 - row):
            _, rows, cols = inputs["image_grid_thw"][picture].tolist()
            groups, visual = visual[:, : rows * cols // 4], visual[:, rows * cols // 4 :]
            kept = session.record.image(picture).kept_patch_ids[0]
            squares = np.unique(kept // cols // 2 * (cols // 2) + kept % cols // 2)
            ours = positions[1:][:, ids == 5][:, 7 * (picture % 2) : 7 * (picture % 2) + 7]
            assert torch.equal(ours, groups[:, torch.from_numpy(squares)])
            picture += 1


def by_hand(visual: Any, pixels: torch.Tensor, grids: torch.Tensor, record: FlowRecord) -> tuple[Any, list[Any]]:
    """The encoder over all rows to its end, what is dead at a layer only hidden there: merged tokens, attention."""
    caught: dict[str, Any] = {}

    def note(module: Any, args: Any, kwargs: Any) -> None:
        caught.setdefault("hidden", args[0])
        caught["positions"] = kwargs["position_embeddings"]
        caught.setdefault("borders", []).append(kwargs["cu_seqlens"])

    hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in visual.blocks]
    visual(pixels, grid_thw=grids)
    for hook in hooks:
        hook.remove()
    hidden, (cos, sin) = caught["hidden"], caught["positions"]
    pruned_at = np.concatenate(
        [record.image(b).pruned_at_layer[0][order(visual, grid)] for b, grid in enumerate(grids)]
    )
    matrices = []
    for layer, (block, borders) in enumerate(zip(visual.blocks, caught["borders"], strict=True)):
        rows = torch.arange(len(hidden))
        window = (rows[:, None] >= borders[1:]).sum(1)
        kept = torch.from_numpy((pruned_at < 0) | (pruned_at >= layer))
        seen = (window[:, None] == window) & (kept[None] | (rows[:, None] == rows))
        query, key, value = block.attn.qkv(block.norm1(hidden)).view(len(hidden), 3, 4, 8).permute(1, 2, 0, 3)
        turned = [part * cos + torch.cat([-part[..., 4:], part[..., :4]], -1) * sin for part in (query, key)]
        logits = (turned[0] @ turned[1].transpose(1, 2) / 8**0.5).masked_fill(~seen, -torch.inf)
        matrices.append((logits.softmax(-1), turned[0], turned[1], value))
        hidden = hidden + block.attn.proj((matrices[-1][0] @ value).transpose(0, 1).flatten(1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden), matrices


def order(visual: Any, grid: torch.Tensor) -> np.ndarray:
    """The patch, in reading order, in each of a picture's rows, from transformers' own functions."""
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    cells = get_vision_position_ids(grid[None], 2)
    patch = cells[:, 0] * grid[2] + cells[:, 1]
    if hasattr(visual, "window_size"):
        index, _ = get_vision_window_index(grid[None], 2, visual.window_size, 14)
        patch = patch.view(-1, 4)[index].flatten()
    return patch.numpy()


@pytest.mark.parametrize("cut", [None, CUT, flowcut.Cut("cls-attention", tokens=7, layer=2)], ids=str)
def test_the_cut_encoder_is_the_whole_one_with_the_dead_hidden(model: Any, processor: Any, cut: Any) -> None:
    visual, inputs = model.model.visual, asked(processor, "@ @ @")
    grids = inputs["image_grid_thw"]
    with torch.no_grad():
        with flowcut.record(visual, cut) as rec:
            tokens = visual(inputs["pixel_values"], grid_thw=grids).pooler_output
        record = rec.record
        merged, matrices = by_hand(visual, inputs["pixel_values"], grids, record)
    first = 0
    for picture, grid in enumerate(grids):
        own, rows = record.image(picture), int(grid.prod())
        cells = order(visual, grid)
        groups = cells.reshape(-1, 4)
        live = np.isin(groups[:, 0], own.kept_patch_ids[0])
        reading = np.argsort(groups[:, 0] // int(grid[2]) // 2 * int(grid[2]) + groups[:, 0] % int(grid[2]) // 2)
        wanted = merged[first // 4 : (first + rows) // 4]
        wanted = torch.where(torch.from_numpy(live)[:, None], wanted, 0)[torch.from_numpy(reading)]
        torch.testing.assert_close(tokens[first // 4 : (first + rows) // 4], wanted, atol=1e-4, rtol=1e-4)
        for flow, (weights, query, key, _) in zip(own.layers, matrices, strict=True):
            places = first + np.argsort(cells)[flow.patch_ids[0]]
            matrix = weights[:, places][:, :, places].numpy()
            np.testing.assert_allclose(flow.received_mass[0, 1:], matrix.mean(0).sum(0), atol=1e-3)
            entropy = -(matrix * np.log(np.maximum(matrix, 1e-45))).sum(-1).mean(-1)
            np.testing.assert_allclose(flow.row_entropy[0], entropy, atol=1e-4)
            asking = (query[:, places].mean(1, keepdim=True) @ key[:, places].transpose(1, 2))[:, 0] / 8**0.5
            np.testing.assert_allclose(flow.cls_row[0, :, 1:], asking.softmax(-1), atol=1e-4)
            assert not flow.cls_column.any()
        first += rows


def test_whole_groups_are_cut_by_the_mean_of_their_scores(model: Any, processor: Any) -> None:
    inputs = asked(processor, "@ @")
    with flowcut.prune(model, CUT) as session:
        session.prepare(inputs)
    assert any("whole merge groups" in sentence for sentence in session.record.differs_from_release)
    for picture in range(2):
        own, cols = session.record.image(picture), int(inputs["image_grid_thw"][picture, 2])
        cumulative: dict[int, float] = {}
        for flow in own.layers:
            ids = flow.patch_ids[0]
            square = ids // cols // 2 * (cols // 2) + ids % cols // 2
            assert (np.bincount(square)[np.unique(square)] == 4).all()
            if not flow.scored:
                continue
            for group in np.unique(square):
                mean = float(flow.score[0][square == group].mean())
                cumulative[group] = mean if flow.layer == 0 else 0.5 * cumulative[group] + 0.5 * mean
                np.testing.assert_allclose(flow.cumulative[0][square == group], cumulative[group], rtol=1e-4)
            if flow.step is not None:
                left = own.layers[flow.layer + 1].patch_ids[0]
                np.testing.assert_array_equal(flow.margin[0] >= 0, np.isin(ids, left))
                removed = 0 if flow.step.clamped else flow.step.requested
                assert flow.step.clamped or flow.step.kept_after == flow.step.kept_before - 4 * removed
        assert own.kept_patch_ids.shape == (1, 28)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_reads_as_each_alone(model: Any, processor: Any, side: str) -> None:
    prompts = ["@ and @ differ?", "one rather longer prompt, and then @ what?"]
    with flowcut.prune(model, CUT) as session, torch.no_grad():
        together = session.prepare(asked(processor, *prompts, side=side))
        logits = model(**together).logits
        record, first = session.record, 0
        for row, prompt in enumerate(prompts):
            alone = session.prepare(asked(processor, prompt, first=first))
            live = together["attention_mask"][row].bool()
            assert torch.equal(together["input_ids"][row][live], alone["input_ids"][0])
            torch.testing.assert_close(logits[row][live], model(**alone).logits[0], atol=1e-4, rtol=1e-4)
            count = prompt.count("@")
            for picture in range(count):
                kept = record.image(first + picture).kept_patch_ids
                np.testing.assert_array_equal(session.record.image(picture).kept_patch_ids, kept)
            first += count
        if side == "left":
            answers = generate(model, session.prepare(asked(processor, *prompts))).new
            assert torch.equal(
                answers[1], generate(model, session.prepare(asked(processor, prompts[1], first=2))).new[0]
            )


def test_a_picture_in_the_second_turn(model: Any, processor: Any) -> None:
    turns = "<|im_start|>user\n@ what?<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n<|im_start|>user\n@ and this?"
    inputs = asked(processor, turns)
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        out = generate(model, prepared)
        torch.testing.assert_close(
            continued(model, prepared, out.sequences)[:, -7:-1], torch.stack(out.logits, 1), atol=1e-5, rtol=1e-5
        )
    text = inputs["input_ids"][inputs["input_ids"] != 5]
    assert torch.equal(prepared["input_ids"][prepared["input_ids"] != 5], text)


def test_prompts_without_a_picture_pass_through(model: Any, processor: Any) -> None:
    inputs = asked(processor, "no picture here")
    with flowcut.prune(model, CUT) as session:
        assert torch.equal(generate(model, session.prepare(inputs)).new, generate(model, inputs).new)


def test_small_pictures_are_left_whole_beside_large_ones(model: Any, processor: Any, tmp_path: Path) -> None:
    inputs = asked(processor, "@ and @", first=1)  # 90 x 300 and 61 x 57, which is four tokens
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
    assert (prepared["input_ids"] == 5).sum() == 7 + 4
    record = FlowRecord.load(session.record.save(tmp_path / "record"))
    assert [int((kept != PADDING_ID).sum()) for kept in record.kept_patch_ids] == [28, 16]
    small = record.image(1)
    assert (small.n_patches, small.steps, small.kept_patch_ids.shape) == (16, (), (1, 16))
    assert record.image(0).n_patches == record.n_patches
    assert any("Row 1 was left whole" in note for note in record.notes)
    assert record.differs_from_release == session.record.differs_from_release


def test_a_video_is_slices_in_time(model: Any, processor: Any) -> None:
    inputs = filmed(processor)
    with flowcut.prune(model, None) as session, torch.no_grad():
        stock = model(**inputs).logits
        assert torch.equal(model(**session.prepare(inputs)).logits, stock)
        assert torch.equal(generate(model, session.prepare(inputs)).new, generate(model, inputs).new)
    with flowcut.prune(model, flowcut.FlowCut(tokens=7)) as session:
        generate(model, session.prepare(inputs))
        assert session.language_record is not None
        assert session.language_record.kept_visual_ids.shape == (1, 7)
        assert [int((kept != PADDING_ID).sum()) for kept in session.record.kept_patch_ids] == [20, 20, 16]
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
    assert (prepared["input_ids"] == 6).sum() == 7
    assert [int((kept != PADDING_ID).sum()) for kept in session.record.kept_patch_ids] == [12, 8, 8]
    with (
        flowcut.prune(model, flowcut.FlowCut(tokens=2, variant="paper")) as session,
        pytest.raises(flowcut.InvalidCut, match=r"3 slices.*choose 3 or more"),
    ):
        session.prepare(inputs)
    with (
        flowcut.prune(model, flowcut.FlowCut(tokens=1)) as session,
        pytest.raises(flowcut.InvalidCut, match=r"tokens is 1.*3 slices.*choose 2 or more"),
    ):
        session.prepare(inputs)
    assert torch.equal(generate(model, inputs).new, generate(model, inputs).new)


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_painted_patches(size: tuple[int, int]) -> None:
    """Patches that change where the original is painted are those whose boxes the paint, or its blur, reaches."""
    processor = tiny_qwen.processor("Qwen2_5_VL", most_groups=60)
    model = tiny_qwen.model("Qwen2_5_VL")
    width, height = size
    geometry = family_of(model.config).geometry(processor.image_processor, size, 14)
    encoder = flowcut.encoder.recording.find_encoder(model)
    rng = np.random.default_rng(0)
    boxes = geometry.boxes()
    assert boxes[:, 2].max() == pytest.approx(width)
    assert boxes[:, 3].max() == pytest.approx(height)
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
        changed[encoder_order(encoder, geometry)[rows]] = True
        invariants.check_paint(geometry, changed, paint)


def encoder_order(encoder: Any, geometry: Any) -> np.ndarray:
    """The patch of each row that the processor gives: merge group by merge group, before any window."""
    from dataclasses import replace

    return replace(encoder, window_side=None).row_order(geometry.grid_rows, geometry.grid_cols).numpy()


@pytest.mark.parametrize("grid", [(2, 2), (8, 8), (10, 18), (16, 8), (2, 34), (22, 6)], ids=str)
def test_rows_lie_where_transformers_puts_them(model: Any, grid: tuple[int, int]) -> None:
    encoder = flowcut.encoder.recording.find_encoder(model)
    np.testing.assert_array_equal(encoder.row_order(*grid).numpy(), order(model.model.visual, torch.tensor([1, *grid])))


def test_asked_from_a_folder(kind: str, processor: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tiny_qwen.checkpoint(kind, tmp_path / "model")
    loaded = flowcut.load(folder)
    image = tiny.picture(0, (250, 140))
    whole = flowcut.ask(loaded, image, "What is it?", max_new_tokens=5)
    text = f"<|im_start|>user\n{tiny_qwen.PICTURE}What is it?<|im_end|>\n<|im_start|>assistant\n"
    assert whole.prompt == text
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    stock = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [token.id for token in whole.tokens] == stock.tolist()
    assert whole.visual_tokens == int((inputs["input_ids"] == 5).sum())
    run = flowcut.ask(loaded, image, "What is it?", CUT, max_new_tokens=5)
    assert run.visual_tokens == 7
    assert run.prompt_tokens == whole.prompt_tokens - whole.visual_tokens + 7
    assert run.record is not None
    assert run.record.geometry is not None
    assert run.record.geometry.seen_box() == (0, 0, 250, 140)
    assert run.record.differs_from_release
    assert 0 < run.flops.vision < whole.flops.vision
    with pytest.raises(flowcut.InvalidCut, match=rf"sees this picture as {whole.visual_tokens} tokens: choose 1 to"):
        flowcut.ask(loaded, image, "What is it?", flowcut.FlowCut(tokens=whole.visual_tokens + 1))

    image.save(tmp_path / "a.png")
    options = [
        "--model",
        str(folder),
        "--tokens",
        "7",
        "--variant",
        "paper",
        "--max-new-tokens",
        "5",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main.main(["ask", str(tmp_path / "a.png"), "What is it?", *options]) == 0
    assert json.loads(capsys.readouterr().out)["visual_tokens"] == 7
    assert Image.open(tmp_path / "out" / "mask.png").size == (250, 140)


def test_weights_of_another_family(kind: str, tmp_path: Path) -> None:
    folder = tiny_qwen.checkpoint(kind, tmp_path / "model")
    tiny.llava().save_pretrained(tmp_path / "other")
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(flowcut.ModelNotLoaded, match=r"weights are missing|not of the shapes|other names"):
        flowcut.load(folder)


def test_inputs_that_do_not_belong_together(model: Any, processor: Any) -> None:
    inputs = asked(processor, "@ what?")
    film = filmed(processor)
    with flowcut.prune(model, CUT) as session:
        with pytest.raises(flowcut.FlowCutError, match="image placeholders"):
            session.prepare({**inputs, "input_ids": inputs["input_ids"][:, 5:]})
        with pytest.raises(flowcut.FlowCutError, match="image_grid_thw is missing"):
            session.prepare({name: value for name, value in inputs.items() if name != "image_grid_thw"})
        with pytest.raises(flowcut.FlowCutError, match="patches and image_grid_thw speaks of"):
            session.prepare({**inputs, "pixel_values": inputs["pixel_values"][4:]})
        with pytest.raises(flowcut.FlowCutError, match="one kind at a time"):
            session.prepare({**film, "pixel_values": inputs["pixel_values"]})


def test_a_thread_that_does_not_record_is_not_cut(model: Any, processor: Any) -> None:
    inputs, visual, results = asked(processor, "@ @"), model.model.visual, {}
    ready = threading.Barrier(2)

    def encode() -> torch.Tensor:
        with torch.no_grad():
            return visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output

    def work(name: str) -> None:
        ready.wait()
        if name == "whole":
            results[name] = [encode() for _ in range(5)]
            return
        with flowcut.record(visual, CUT):
            results[name] = [encode() for _ in range(5)]

    whole = encode()
    with flowcut.record(visual, CUT):
        cut = encode()
    threads = [threading.Thread(target=work, args=(name,)) for name in ("whole", "cut")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found, whole) for found in results["whole"])
    assert all(torch.equal(found, cut) for found in results["cut"])
    assert not torch.equal(whole, cut)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(kind: str, processor: Any, dtype: torch.dtype) -> None:
    half = tiny_qwen.model(kind).to(dtype)
    with flowcut.prune(half, CUT) as session:
        answer = generate(half, session.prepare(asked(processor, "@ what?")))
    assert answer.new.shape == (1, 6)
    assert session.record.kept_patch_ids.shape == (1, 28)
    assert all(np.isfinite(flow.cumulative).all() for flow in session.record.layers if flow.scored)


def films(processor: Any, *prompts: str, frames: int = 4, size: tuple[int, int] = (100, 70)) -> Any:
    """Prompts with `@` for each video, as the family's own video processor makes them."""
    processor.tokenizer.padding_side = "left"
    videos = [tiny_video.clip(seed, frames, size) for seed in range("".join(prompts).count("@"))]
    texts = [prompt.replace("@", tiny_qwen.VIDEO) for prompt in prompts]
    rate = [VideoMetadata(total_num_frames=frames, fps=3.0, frames_indices=list(range(frames)))] * len(videos)
    return processor(
        videos=videos, text=texts, return_tensors="pt", padding=True, do_sample_frames=False, video_metadata=rate
    )


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=500)], ids=["whole", "budget above"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_keeping_all_of_a_video_is_the_stock_answer_to_the_bit(
    model: Any, processor: Any, cut: Any, options: dict
) -> None:
    inputs = films(processor, "@ and @ differ?", "a longer prompt, then @ what?")
    invariants.check_keeping_all(model, inputs, cut, generate, **options)


def test_videos_keep_the_budget_and_their_positions(model: Any, processor: Any) -> None:
    inputs = films(processor, "@ and @ differ?")
    whole = model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs.get("second_per_grid_ts"), attention_mask=inputs["attention_mask"],
    )[0]  # fmt: skip
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
    is_video = inputs["input_ids"][0] == 6
    stays = ~is_video
    places = is_video.nonzero()[:, 0].split([int(grid.prod()) // 4 for grid in inputs["video_grid_thw"]])
    for own, medium in zip(places, session.media, strict=True):
        assert len(medium.features) == CUT.tokens
        stays[own[medium.places]] = True
    assert torch.equal(prepared["position_ids"][1:], whole[..., stays])
    assert int((prepared["input_ids"] == 6).sum()) == 2 * CUT.tokens


@pytest.mark.parametrize("size", [(96, 96), (400, 100), (100, 400), (1000, 100), (100, 1000), (9, 7), (333, 217),
                                  (57, 290), (640, 480), (29, 700)], ids=str)  # fmt: skip
def test_painted_frames(model: Any, processor: Any, size: tuple[int, int]) -> None:
    """Of five frames in slices of two, the patches that change are those whose boxes the paint or its blur reaches."""
    width, height = size
    geometries = family_of(model.config).frame_geometries(model, processor.video_processor, size, 5)
    assert [geometry.view for geometry in geometries] == ["frames 1 to 2", "frames 3 to 4", "frame 5"]
    rng = np.random.default_rng(0)
    for frame in (0, 3, 4):
        left, top, right, bottom = paint = invariants.paint_of(rng, size)
        black = np.zeros((5, height, width, 3), np.uint8)
        painted = black.copy()
        painted[frame, top:bottom, left:right] = 255
        made = [processor.video_processor([video], return_tensors="pt") for video in (black, painted)]
        slices, rows, cols = made[0]["video_grid_thw"][0].tolist()
        apart = (made[0]["pixel_values_videos"] - made[1]["pixel_values_videos"]).abs().amax(1)
        # Rows lie square by square of 2 x 2 patches.
        grid = apart.view(slices, rows // 2, cols // 2, 2, 2).transpose(2, 3).reshape(slices, -1).numpy() > 1e-3
        for place, (geometry, changed) in enumerate(zip(geometries, grid, strict=True)):
            assert (geometry.grid_rows, geometry.grid_cols) == (rows, cols)
            if place != frame // 2:
                assert not changed.any()
                continue
            invariants.check_paint(geometry, changed, paint)


def test_a_video_asked_from_a_folder(kind: str, tmp_path: Path) -> None:
    loaded = flowcut.load(tiny_qwen.checkpoint(kind, tmp_path))
    frames = list(tiny_video.clip(0, 4, (100, 70)))
    whole = flowcut.ask(loaded, frames, "What happens?", max_new_tokens=4)
    run = flowcut.ask(loaded, frames, "What happens?", CUT, max_new_tokens=4)
    assert run.visual_tokens == CUT.tokens < whole.visual_tokens
    assert run.record is not None
    assert [geometry.view for geometry in run.record.geometries] == ["frames 1 to 2", "frames 3 to 4"]
