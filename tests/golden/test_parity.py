"""Parity with the released FlowCut code: every vector here, and every one in the collection beside the checkout.

Ids, counts, steps and tokens must be identical; scores within 1e-4 of the array's maximum; features and logits within
1e-4; E within 1e-5; counts before rounding within 1e-3.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

import flowcut
from flowcut.records.language import LanguageRecord
from flowcut.records.vision import FlowRecord, PruneStep

HERE = Path(__file__).resolve().parent / "vectors"
BESIDE = Path(os.environ.get("FLOWCUT_GOLDEN", HERE.parents[3] / "shared" / "golden"))


def cases(stage: str, pattern: str = "*") -> list[Path]:
    """Every case of a stage, by its place in the collection; those here stand in for their twins beside."""
    found: dict[str, Path] = {}
    for root in (BESIDE, HERE):
        for path in root.glob(f"{stage}/{pattern}/case_*.npz"):
            found[path.relative_to(root).as_posix()] = path
    return [found[name] for name in sorted(found)]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@lru_cache(maxsize=2)
def tower(folder: Path) -> CLIPVisionModel:
    return CLIPVisionModel.from_pretrained(folder).eval()


@lru_cache(maxsize=2)
def llava(folder: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(folder).eval()


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4, relative: bool = True) -> None:
    assert got.shape == wanted.shape
    scale = float(np.abs(wanted).max()) if relative and wanted.size else 1.0
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


def as_row(step: PruneStep) -> list[int]:
    requested = -1 if step.requested is None else step.requested
    return [step.layer, step.kept_before, step.kept_after, requested, int(step.clamped)]


def check_scores(record: FlowRecord, golden: np.lib.npyio.NpzFile) -> None:
    assert [flow.layer for flow in record.layers if flow.scored] == golden["scored_layers"].tolist()
    for layer in golden["scored_layers"]:
        flow, key = record.layers[layer], f"_{layer:02d}"
        np.testing.assert_array_equal(flow.patch_ids, golden["alive" + key])
        close(flow.relation, golden["a_hat" + key])
        close(flow.semantic, golden["s_hat" + key])
        close(flow.value_norm[:, 1:], golden["w" + key])
        close(flow.score, golden["S" + key])
        close(flow.cumulative, golden["C" + key])


def check_counts(record: FlowRecord, golden: np.lib.npyio.NpzFile) -> None:
    by_entropy = [step for step in record.steps if not step.clamped]
    assert [step.layer for step in by_entropy] == golden["entropy_layers"].tolist()
    for step, ratio, requested in zip(by_entropy, golden["E"], golden["r_raw"], strict=True):
        close(step.entropy_ratio, ratio, 1e-5, relative=False)
        close(step.requested_per_image, requested, 1e-3, relative=False)


@pytest.mark.parametrize("path", cases("vision"), ids=name_of)
def test_vision(path: Path) -> None:
    golden, model = np.load(path), tower(path.parent)
    cut = flowcut.FlowCut(tokens=int(golden["target"]), variant="official")
    with torch.no_grad(), flowcut.record(model, cut=cut, feature_layer=-2) as rec:
        out = model(torch.from_numpy(golden["pixel_values"]), output_hidden_states=True)
    np.testing.assert_array_equal(rec.record.kept_patch_ids, golden["kept_ids"])
    assert [as_row(step) for step in rec.record.steps] == golden["steps"].tolist()
    check_scores(rec.record, golden)
    check_counts(rec.record, golden)
    close(out.hidden_states[-2][:, 1:].numpy(), golden["features"], relative=False)


@pytest.mark.parametrize("path", cases("vision"), ids=name_of)
def test_vision_without_recording_cuts_the_same(path: Path) -> None:
    golden, model = np.load(path), tower(path.parent)
    recording = flowcut.record(model, flowcut.FlowCut(tokens=int(golden["target"])), flows=False)
    with torch.no_grad(), recording:
        out = model(torch.from_numpy(golden["pixel_values"]), output_hidden_states=True)
    assert recording.record.layers == ()
    np.testing.assert_array_equal(recording.record.kept_patch_ids, golden["kept_ids"])
    close(out.hidden_states[-2][:, 1:].numpy(), golden["features"], relative=False)


@pytest.mark.parametrize("folder", sorted({path.parent for path in cases("vision")}), ids=lambda path: path.name)
def test_unpruned_tower(folder: Path) -> None:
    golden, model = np.load(folder / "unpruned.npz"), tower(folder)
    with torch.no_grad(), flowcut.record(model):
        out = model(torch.from_numpy(golden["pixel_values"]), output_hidden_states=True)
    close(out.hidden_states[-2].numpy(), golden["hidden"], relative=False)


@pytest.mark.parametrize("path", cases("end_to_end", "llava15_*"), ids=name_of)
def test_llava_from_prompt_to_tokens(path: Path) -> None:
    golden, model = np.load(path), llava(path.parent)
    input_ids = torch.from_numpy(golden["input_ids_full"])
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.from_numpy(golden["pixel_values"]),
    }
    wanted = golden["tokens"]
    with flowcut.prune(model, cut=flowcut.FlowCut(tokens=int(golden["target"]))) as session:
        prepared = session.prepare(inputs)
        out = model.generate(
            **prepared, max_new_tokens=wanted.shape[1], do_sample=False, eos_token_id=None, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    np.testing.assert_array_equal(prepared["input_ids"].numpy(), golden["input_ids_pruned"])
    np.testing.assert_array_equal(session.record.kept_patch_ids, golden["kept_ids"])
    assert [as_row(step) for step in session.record.steps] == golden["vision_steps"].tolist()
    np.testing.assert_array_equal(out.sequences[:, -wanted.shape[1] :].numpy(), wanted)
    close(torch.stack(out.logits, dim=1).numpy(), golden["step_logits"], relative=False)
    close(embeddings(model, prepared), golden["inputs_embeds"], relative=False)


def embeddings(model: LlavaForConditionalGeneration, prepared: dict) -> np.ndarray:
    """What enters the first decoder layer: the prompt's embeddings with the picture's features in their places."""
    features = torch.cat(prepared["mm_encoder_outputs"]["image"].pooler_output)
    embedded = model.get_input_embeddings()(prepared["input_ids"]).detach().clone()
    embedded[prepared["input_ids"] == model.config.image_token_id] = features
    return embedded.numpy()


@pytest.mark.parametrize("folder", sorted({p.parent for p in cases("end_to_end", "llava15_*")}), ids=lambda p: p.name)
def test_unpruned_llava(folder: Path) -> None:
    golden, model = np.load(folder / "unpruned.npz"), llava(folder)
    inputs = {name: torch.from_numpy(golden[name]) for name in ("input_ids", "pixel_values")}
    with flowcut.prune(model) as session, torch.no_grad():
        out = model(**session.prepare(inputs))
    close(out.logits.numpy(), golden["logits"], relative=False)


@lru_cache(maxsize=2)
def llama(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder).eval()


def check_language_scores(record: LanguageRecord, golden: np.lib.npyio.NpzFile) -> None:
    if "rel" not in golden:
        assert record.relation is record.semantic is record.value_norm is record.score is None
        return
    for found, name in ((record.relation, "rel"), (record.semantic, "sem"), (record.score, "score")):
        close(found, golden[name])
    close(record.value_norm, golden["w"])


@pytest.mark.parametrize("path", cases("language"), ids=name_of)
def test_language(path: Path) -> None:
    golden, model = np.load(path), llama(path.parent)
    cut = flowcut.FlowCut(tokens=int(golden["target"]), variant="official")
    embeds = torch.from_numpy(golden["inputs_embeds"])
    layer = int(golden["prune_layer"])
    with torch.no_grad(), flowcut.record_language(model.model, golden["span"], cut, layer) as rec:
        out = model.model(inputs_embeds=embeds, use_cache=True)
    np.testing.assert_array_equal(rec.record.kept_visual_ids, golden["keep"])
    np.testing.assert_array_equal(rec.record.rows_after, golden["rows_after"])
    np.testing.assert_array_equal(rec.record.positions_before, golden["positions_before"])
    np.testing.assert_array_equal(rec.record.positions_after, golden["positions_after"])
    lengths = [out.past_key_values.get_seq_length(index) for index in range(len(model.model.layers))]
    assert lengths == golden["kv_len"].tolist()
    check_language_scores(rec.record, golden)
    close(out.last_hidden_state.numpy(), golden["hidden_final"], relative=False)
    close(model.lm_head(out.last_hidden_state[:, -1]).detach().numpy(), golden["logits_last"], relative=False)


@pytest.mark.parametrize("path", [path for path in cases("language") if path.stem.endswith("b1")], ids=name_of)
def test_language_while_decoding(path: Path) -> None:
    golden, model = np.load(path), llama(path.parent)
    positions: list[list[int]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        positions.append(kwargs["position_ids"][0].tolist())

    cut = flowcut.FlowCut(tokens=int(golden["target"]))
    with flowcut.record_language(model, golden["span"], cut), ExitStack() as undo:
        for layer in model.model.layers:
            undo.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        out = model.generate(
            inputs_embeds=torch.from_numpy(golden["inputs_embeds"]), max_new_tokens=5, do_sample=False,
            eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    np.testing.assert_array_equal(out.sequences.numpy(), golden["tokens"])
    close(torch.stack(out.logits, dim=1).numpy(), golden["step_logits"], relative=False)
    steps = np.array(positions[len(model.model.layers) :]).reshape(golden["decode_positions"].shape)
    np.testing.assert_array_equal(steps, golden["decode_positions"])


@lru_cache(maxsize=2)
def llava_next(folder: Path) -> LlavaNextForConditionalGeneration:
    return LlavaNextForConditionalGeneration.from_pretrained(folder).eval()


def next_inputs(model: LlavaNextForConditionalGeneration, golden: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    """As the stock processor gives them: every placeholder of the uncut picture."""
    start, length = golden["span"][0]
    sizes = torch.from_numpy(golden["image_size_wh"][::-1].copy())[None]
    pixels = torch.from_numpy(golden["pixel_values"])
    with torch.no_grad():
        whole = model.get_image_features(pixel_values=pixels, image_sizes=sizes).pooler_output
    pruned = torch.from_numpy(golden["input_ids_pruned"])
    image = torch.full((1, len(whole[0])), model.config.image_token_id)
    ids = torch.cat([pruned[:, :start], image, pruned[:, start + length :]], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels[None],
        "image_sizes": sizes,
    }


@pytest.mark.parametrize("path", cases("end_to_end", "next_*"), ids=name_of)
def test_llava_next_from_prompt_to_tokens(path: Path) -> None:
    golden, model = np.load(path), llava_next(path.parent)
    wanted = golden["tokens"]
    inputs = next_inputs(model, golden)
    with flowcut.prune(model, cut=flowcut.FlowCut(tokens=int(golden["target_num"]))) as session:
        prepared = session.prepare(inputs)
        out = model.generate(
            **prepared, max_new_tokens=wanted.shape[1], do_sample=False, eos_token_id=None, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        close(embeddings(model, prepared), golden["inputs_embeds"], relative=False)
    np.testing.assert_array_equal(prepared["input_ids"].numpy(), golden["input_ids_pruned"])
    np.testing.assert_array_equal(session.record.kept_patch_ids, golden["kept_ids"])
    assert [as_row(step) for step in session.record.steps] == golden["vision_steps"].tolist()
    np.testing.assert_array_equal(session.media[0].sources.numpy(), golden["visual_source"])
    np.testing.assert_array_equal(session.language_record.spans, golden["span"])
    check_language_scores(session.language_record, golden)
    if "keep" in golden:
        np.testing.assert_array_equal(session.language_record.kept_visual_ids, golden["keep"])
    np.testing.assert_array_equal(out.sequences[:, -wanted.shape[1] :].numpy(), wanted)
    close(torch.stack(out.logits, dim=1).numpy(), golden["step_logits"], relative=False)


@pytest.mark.parametrize("folder", sorted({p.parent for p in cases("end_to_end", "next_*")}), ids=lambda p: p.name)
def test_unpruned_llava_next(folder: Path) -> None:
    golden, model = np.load(folder / "unpruned.npz"), llava_next(folder)
    inputs = {name: torch.from_numpy(golden[name]) for name in ("input_ids", "pixel_values")}
    inputs["image_sizes"] = torch.from_numpy(golden["image_size_wh"][::-1].copy())[None]
    with flowcut.prune(model) as session, torch.no_grad():
        out = model(**session.prepare(inputs))
    close(out.logits[:, -1].numpy(), golden["logits_last"], relative=False)


def test_there_is_something_to_compare_with() -> None:
    assert len(cases("vision")) >= 12
    assert len(cases("language")) >= 2
    assert len(cases("end_to_end", "llava15_*")) >= 1
    assert len(cases("end_to_end", "next_*")) >= 3
