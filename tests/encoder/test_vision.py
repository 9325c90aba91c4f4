"""Recording and pruning inside a CLIP tower, as properties."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

import flowcut
from flowcut.records.vision import FlowRecord
from tests import tiny

CUTS = [
    flowcut.FlowCut(tokens=9),
    flowcut.FlowCut(tokens=9, variant="paper"),
    flowcut.Cut("random", tokens=9, seed=4),
    flowcut.Cut("stride", tokens=9),
    flowcut.Cut("cls-attention", tokens=9),
    flowcut.Cut("cls-attention", tokens=9, layer=2),
    flowcut.Cut("cls-attention", tokens=9, layer=-1),
]


def run(model: Any, pixel_values: torch.Tensor, cut: Any, **options: Any) -> tuple[FlowRecord, Any]:
    with torch.no_grad(), flowcut.record(model, cut, **options) as rec:
        out = model(pixel_values, output_hidden_states=True)
    return rec.record, out


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """Everything that a `with` might leave behind: hooks, attributes, the attention setting."""
    found: dict[str, Any] = {"attention": model.config._attn_implementation}
    for name, module in model.named_modules():
        found[name] = (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
    return found


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.title)
@pytest.mark.parametrize("per_image", [False, True])
def test_every_method_hands_over_its_target(cut: flowcut.CutConfig, per_image: bool) -> None:
    cut = flowcut.CutConfig(**{**cut.as_dict(), "per_image": per_image})
    record, out = run(tiny.clip(), tiny.pixels(3), cut)
    assert out.hidden_states[-2].shape == (3, 10, 32)
    assert out.last_hidden_state.shape == (3, 10, 32)
    assert record.kept_patch_ids.shape == (3, 9)
    assert (np.diff(record.kept_patch_ids, axis=1) > 0).all()
    assert len(record.layers) == record.n_layers == 6
    assert record.steps[-1].clamped
    assert record.steps[-1].kept_after == 9


@pytest.mark.parametrize("cut", CUTS[2:], ids=lambda cut: cut.title)
def test_one_shot_methods_only_choose_among_the_untouched_features(cut: flowcut.CutConfig) -> None:
    model, pixel_values = tiny.clip(), tiny.pixels(2)
    whole = run(model, pixel_values, None)[1].hidden_states[-2]
    record, out = run(model, pixel_values, cut)
    tokens = torch.from_numpy(np.pad(record.kept_patch_ids + 1, ((0, 0), (1, 0))))
    assert torch.equal(out.hidden_states[-2], whole.gather(1, tokens[..., None].expand(-1, -1, 32)))


@pytest.mark.parametrize(("asked", "layer"), [(None, 4), (2, 2), (-1, 5), (-3, 3)])
def test_cls_attention_reads_the_layer_it_names(asked: int | None, layer: int) -> None:
    model, pixel_values = tiny.clip(), tiny.pixels(2)
    flows = run(model, pixel_values, None)[0].layers
    strongest = np.argsort(-flows[layer].cls_row.mean(1)[:, 1:], axis=1, kind="stable")[:, :9]
    record, _ = run(model, pixel_values, flowcut.Cut("cls-attention", tokens=9, layer=asked))
    np.testing.assert_array_equal(record.kept_patch_ids, np.sort(strongest, axis=1))


def test_a_layer_that_reaches_no_answer_is_named_in_the_record() -> None:
    model, pixel_values = tiny.clip(), tiny.pixels(1)
    for layer, behind in ((-1, True), (4, False), (None, False)):
        record, _ = run(model, pixel_values, flowcut.Cut("cls-attention", tokens=9, layer=layer))
        assert record.last_read_layer == record.feature_layer == 4
        assert any("looks at vision layer 5, behind layer 4" in note for note in record.notes) == behind
    joined, _ = run(model, pixel_values, flowcut.Cut("cls-attention", tokens=9, layer=3), feature_layer=[-2, -4])
    assert (joined.feature_layer, joined.last_read_layer) == (2, 4)
    assert not any("behind layer" in note for note in joined.notes)


def test_the_norm_of_single_heads_is_recorded_beside_that_of_their_mean() -> None:
    record, _ = run(tiny.clip(), tiny.pixels(2), flowcut.FlowCut(tokens=9))
    for layer in record.layers:
        assert layer.head_value_norm is not None
        assert layer.head_value_norm.shape == layer.value_norm.shape
        assert (layer.head_value_norm >= layer.value_norm - 1e-5).all()  # by the triangle inequality


@pytest.mark.parametrize("layer", [6, -7, 100])
def test_layers_that_are_not_there(layer: int) -> None:
    with pytest.raises(flowcut.InvalidCut, match=r"6 layers: choose 0 to 5, or -6 to -1"):
        flowcut.record(tiny.clip(), flowcut.Cut("cls-attention", layer=layer))


@pytest.mark.parametrize("tokens", [tiny.N_PATCHES, tiny.N_PATCHES + 1, 10_000])
@pytest.mark.parametrize("method", ["flowcut", "random", "stride", "cls-attention"])
def test_keeping_all_is_untouched_to_the_bit(tokens: int, method: str) -> None:
    model, pixel_values = tiny.clip(), tiny.pixels(2)
    with torch.no_grad():
        plain = model(pixel_values, output_hidden_states=True)
    record, out = run(model, pixel_values, flowcut.Cut(method, tokens=tokens))
    assert all(torch.equal(a, b) for a, b in zip(plain.hidden_states, out.hidden_states, strict=True))
    assert torch.equal(plain.pooler_output, out.pooler_output)
    np.testing.assert_array_equal(record.kept_patch_ids, np.tile(np.arange(tiny.N_PATCHES), (2, 1)))
    assert record.steps == ()
    assert any("Nothing was cut" in note for note in record.notes)


@pytest.mark.parametrize("flows", [True, False])
def test_recording_alone_is_untouched_to_the_bit(flows: bool) -> None:
    model, pixel_values = tiny.clip(), tiny.pixels(2)
    with torch.no_grad():
        plain = model(pixel_values, output_hidden_states=True)
    record, out = run(model, pixel_values, None, flows=flows)
    assert all(torch.equal(a, b) for a, b in zip(plain.hidden_states, out.hidden_states, strict=True))
    assert len(record.layers) == (6 if flows else 0)
    assert (record.pruned_at_layer == -1).all()


def test_the_highest_scores_survive() -> None:
    record, _ = run(tiny.clip(), tiny.pixels(3), flowcut.FlowCut(tokens=9))
    for flow in record.layers:
        if flow.step is None:
            continue
        after = record.layers[flow.layer + 1].patch_ids
        for image in range(3):
            stays = np.isin(flow.patch_ids[image], after[image])
            assert stays.sum() == flow.step.kept_after
            lost = flow.cumulative[image][~stays]
            assert lost.size == 0 or lost.max() <= flow.cumulative[image][stays].min()
            assert flow.cutoff[image] == flow.cumulative[image][stays].min()
            np.testing.assert_array_equal(flow.margin[image] >= 0, stays)


@pytest.mark.parametrize(
    "cut",
    [
        flowcut.FlowCut(tokens=9),
        flowcut.FlowCut(tokens=9, variant="paper", per_image=True),
        flowcut.Cut("random", tokens=9, seed=4),
    ],
    ids=lambda cut: cut.title,
)
def test_the_keep_alive_twin_is_the_most_alike_of_those_that_stay(cut: flowcut.CutConfig) -> None:
    model, values = tiny.clip(n_layers=8), []
    for layer in model.encoder.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda module, args, output: values.append(output.numpy()))
    record, _ = run(model, tiny.pixels(4), cut)
    compared = 0
    for flow, value in zip(record.layers, values, strict=True):
        if flow.step is None:
            assert flow.nearest_kept_id is flow.nearest_kept_cosine is None
            continue
        for image in range(4):
            kept = [patch for patch in flow.patch_ids[image].tolist() if patch >= 0]
            vectors = zip(kept, value[image, 1:], strict=False)
            unit = {patch: vector / np.linalg.norm(vector) for patch, vector in vectors}
            stays = [patch for patch in kept if record.pruned_at_layer[image, patch] != flow.layer]
            for place, patch in enumerate(kept):
                nearest, cosine = flow.nearest_kept_id[image, place], flow.nearest_kept_cosine[image, place]
                if patch in stays:
                    assert nearest == -2
                    assert np.isnan(cosine)
                else:
                    best = max(stays, key=lambda other: float(unit[patch] @ unit[other]))
                    assert nearest == best
                    assert cosine == pytest.approx(float(unit[patch] @ unit[best]), abs=1e-5)
                    compared += 1
    assert compared == (record.pruned_at_layer >= 0).sum()


def test_pruning_alone_looks_for_no_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("twins cost time that only the record may take")

    monkeypatch.setattr("flowcut.encoder.prune_group.nearest_kept", never)
    run(tiny.clip(), tiny.pixels(2), flowcut.FlowCut(tokens=9), flows=False)


def test_the_dead_are_dated() -> None:
    record, _ = run(tiny.clip(), tiny.pixels(2), flowcut.FlowCut(tokens=9))
    for image in range(2):
        kept_rows = np.flatnonzero(record.pruned_at_layer[image] == -1)
        np.testing.assert_array_equal(kept_rows, record.kept_patch_ids[image])
        for flow in record.layers:
            born = (record.pruned_at_layer[image] == -1) | (record.pruned_at_layer[image] >= flow.layer)
            np.testing.assert_array_equal(np.flatnonzero(born), flow.patch_ids[image])


def test_a_coupled_batch_takes_the_largest_count() -> None:
    record, _ = run(tiny.clip(), tiny.pixels(4), flowcut.FlowCut(tokens=9))
    first = record.steps[0]
    assert first.requested == round(first.requested_per_image.max())
    assert first.kept_after == first.kept_before - first.requested
    assert np.isnan(record.steps[-1].requested_per_image).all()


def test_per_image_rows_do_not_know_their_neighbours() -> None:
    model, pixel_values = tiny.clip(n_layers=8), tiny.pixels(4)
    cut = flowcut.FlowCut(tokens=9, per_image=True)
    together, out = run(model, pixel_values, cut)
    assert len(set(together.steps[0].kept_after_per_image.tolist())) > 1, "the case must really be ragged"
    for image in range(4):
        alone, out_alone = run(model, pixel_values[image : image + 1], cut)
        own = together.image(image)
        np.testing.assert_array_equal(own.kept_patch_ids, alone.kept_patch_ids)
        np.testing.assert_array_equal(own.pruned_at_layer, alone.pruned_at_layer)
        torch.testing.assert_close(out.hidden_states[-2][image], out_alone.hidden_states[-2][0], atol=1e-5, rtol=0)
        assert [(s.kept_before, s.kept_after, s.requested, s.clamped) for s in own.steps] == [
            (s.kept_before, s.kept_after, s.requested, s.clamped) for s in alone.steps
        ]
        for mine, theirs in zip(own.layers, alone.layers, strict=True):
            np.testing.assert_array_equal(mine.patch_ids, theirs.patch_ids)
            np.testing.assert_allclose(mine.cls_row, theirs.cls_row, atol=1e-5)
            np.testing.assert_array_equal(mine.top_source_ids[..., 0], theirs.top_source_ids[..., 0])
            assert mine.scored == theirs.scored
            np.testing.assert_array_equal(mine.nearest_kept_id, theirs.nearest_kept_id)


def test_a_coupled_batch_of_twins_is_one_of_them() -> None:
    model = tiny.clip()
    alone, _ = run(model, tiny.pixels(), flowcut.FlowCut(tokens=9))
    nearest_kept, _ = run(model, tiny.pixels().repeat(2, 1, 1, 1), flowcut.FlowCut(tokens=9))
    np.testing.assert_array_equal(nearest_kept.kept_patch_ids, np.repeat(alone.kept_patch_ids, 2, axis=0))


@pytest.mark.parametrize("cut", [None, *CUTS[:3]], ids=lambda cut: "none" if cut is None else cut.title)
def test_nothing_is_left_on_the_model(cut: flowcut.CutConfig | None) -> None:
    model = tiny.clip()
    with torch.no_grad():
        model(tiny.pixels(), output_hidden_states=True)  # transformers installs its own capture hooks, to stay
    before = state_of(model)
    run(model, tiny.pixels(), cut)
    assert state_of(model) == before


def test_nothing_is_left_after_an_exception() -> None:
    model = tiny.clip()
    before = state_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle of a pass")

    hook = model.encoder.layers[3].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="middle"), flowcut.record(model, flowcut.FlowCut(tokens=9)) as rec:
        model(tiny.pixels())
    hook.remove()
    assert state_of(model) == before
    with pytest.raises(flowcut.FlowCutError, match="Nothing was recorded"):
        _ = rec.record
    assert run(model, tiny.pixels(), flowcut.FlowCut(tokens=9))[0].kept_patch_ids.shape == (1, 9)


def test_a_pass_that_failed_does_not_spoil_the_next() -> None:
    model = tiny.clip()
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(tokens=9)) as rec:
        with pytest.raises(ValueError, match="Input image size"):
            model(torch.zeros(1, 3, 20, 20))
        model(tiny.pixels())
    assert rec.record.kept_patch_ids.shape == (1, 9)


def test_the_last_pass_is_the_record() -> None:
    model, cut = tiny.clip(), flowcut.FlowCut(tokens=9)
    with torch.no_grad(), flowcut.record(model, cut) as rec:
        model(tiny.pixels(seed=0))
        model(tiny.pixels(batch=2, seed=1))
    np.testing.assert_array_equal(rec.record.kept_patch_ids, run(model, tiny.pixels(2, 1), cut)[0].kept_patch_ids)


def test_two_models_nested_in_one_thread() -> None:
    one, two = tiny.clip(0), tiny.clip(1)
    with torch.no_grad(), flowcut.record(one, flowcut.FlowCut(9)) as a, flowcut.record(two, flowcut.FlowCut(5)) as b:
        one(tiny.pixels())
        two(tiny.pixels())
    np.testing.assert_array_equal(
        a.record.kept_patch_ids, run(one, tiny.pixels(), flowcut.FlowCut(9))[0].kept_patch_ids
    )
    np.testing.assert_array_equal(
        b.record.kept_patch_ids, run(two, tiny.pixels(), flowcut.FlowCut(5))[0].kept_patch_ids
    )


def test_one_model_is_not_recorded_twice_at_once() -> None:
    model = tiny.clip()
    before = state_of(model)
    with flowcut.record(model), pytest.raises(flowcut.FlowCutError, match="already"), flowcut.record(model):
        pass
    assert state_of(model) == before


def in_threads(*jobs: Any) -> list[Any]:
    """Run jobs at the same time, each several times; their results, or the first error."""
    results: list[Any] = [None] * len(jobs)
    ready = threading.Barrier(len(jobs))

    def work(place: int) -> None:
        ready.wait()
        try:
            results[place] = [jobs[place]() for _ in range(6)]
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def test_two_threads_and_two_models_do_not_meet() -> None:
    one, two = tiny.clip(0), tiny.clip(1)
    cuts = flowcut.FlowCut(tokens=9), flowcut.FlowCut(tokens=20, per_image=True)
    expected = [run(model, tiny.pixels(2), cut)[0] for model, cut in zip((one, two), cuts, strict=True)]
    before = state_of(one), state_of(two)
    found = in_threads(
        lambda: run(one, tiny.pixels(2), cuts[0])[0],
        lambda: run(two, tiny.pixels(2), cuts[1])[0],
    )
    for records, record in zip(found, expected, strict=True):
        for other in records:
            np.testing.assert_array_equal(other.kept_patch_ids, record.kept_patch_ids)
    assert (state_of(one), state_of(two)) == before


def test_a_thread_that_does_not_record_is_not_cut() -> None:
    model = tiny.clip()
    with torch.no_grad():
        plain = model(tiny.pixels()).last_hidden_state

    def without() -> torch.Tensor:
        with torch.no_grad():
            return model(tiny.pixels()).last_hidden_state

    cut = flowcut.FlowCut(tokens=9)
    expected = run(model, tiny.pixels(), cut)[0].kept_patch_ids
    pruned, untouched = in_threads(lambda: run(model, tiny.pixels(), cut)[0].kept_patch_ids, without)
    assert all(torch.equal(other, plain) for other in untouched)
    assert all((kept == expected).all() for kept in pruned)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_half_precision_never_stops_on_an_underflow(dtype: torch.dtype, spread: float) -> None:
    model = tiny.clip()
    for layer in model.encoder.layers:
        layer.self_attn.q_proj.weight.data *= spread
    record, _ = run(model.to(dtype), tiny.pixels(2).to(dtype), flowcut.FlowCut(tokens=9))
    assert record.dtype == str(dtype).removeprefix("torch.")
    assert record.kept_patch_ids.shape == (2, 9)
    for flow in record.layers:
        assert np.isfinite(flow.row_entropy).all()
        assert not flow.scored or np.isfinite(flow.cumulative).all()
    assert any("float32" in note for note in record.notes)


def test_pixels_that_are_not_numbers_are_refused_in_one_sentence() -> None:
    with pytest.raises(flowcut.FlowCutError, match="not numbers"):
        run(tiny.clip(), torch.full((1, 3, tiny.SIDE, tiny.SIDE), torch.nan), flowcut.FlowCut(tokens=9))


@pytest.mark.parametrize("n_layers", [3, 4, 5, 9])
@pytest.mark.parametrize("variant", ["official", "paper"])
def test_towers_of_three_layers_and_more(n_layers: int, variant: str) -> None:
    record, _ = run(tiny.clip(n_layers=n_layers), tiny.pixels(2), flowcut.FlowCut(tokens=9, variant=variant))
    assert [step.layer for step in record.steps] == [layer for layer in range(n_layers - 2) if (n_layers - layer) % 2]
    assert [step.clamped for step in record.steps] == [False] * (len(record.steps) - 1) + [True]


def test_a_tower_of_two_layers_is_refused() -> None:
    with pytest.raises(flowcut.InvalidCut, match="2 layers"):
        flowcut.record(tiny.clip(n_layers=2))


def test_another_feature_layer_moves_the_last_prune() -> None:
    record, out = run(tiny.clip(), tiny.pixels(), flowcut.FlowCut(tokens=9), feature_layer=-1)
    assert [step.layer for step in record.steps] == [0, 2, 4]
    assert out.hidden_states[-1].shape[1] == 10


def test_inference_mode() -> None:
    model = tiny.clip()
    with torch.inference_mode(), flowcut.record(model, flowcut.FlowCut(tokens=9)) as rec:
        model(tiny.pixels())
    np.testing.assert_array_equal(
        rec.record.kept_patch_ids, run(model, tiny.pixels(), flowcut.FlowCut(tokens=9))[0].kept_patch_ids
    )


def test_gradients_flow_through_the_survivors() -> None:
    model, pixel_values = tiny.clip(), tiny.pixels().requires_grad_()
    with flowcut.record(model, flowcut.FlowCut(tokens=9)):
        model(pixel_values).last_hidden_state.sum().backward()
    assert pixel_values.grad is not None
    assert torch.isfinite(pixel_values.grad).all()
    assert pixel_values.grad.abs().sum() > 0


def test_towers_are_found_where_composite_models_keep_them() -> None:
    torch.manual_seed(0)
    with_projection = CLIPVisionModelWithProjection(tiny.vision_config()).eval()
    assert run(with_projection, tiny.pixels(), flowcut.FlowCut(tokens=9))[0].kept_patch_ids.shape == (1, 9)
    model = tiny.llava()
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(tokens=9)) as rec:
        features = model.get_image_features(pixel_values=tiny.pixels()).pooler_output
    assert features[0].shape[0] == 9
    assert rec.record.n_patches == tiny.N_PATCHES


def test_encoders_that_are_not_known_are_refused_by_name() -> None:
    config = ViTConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=6
    )
    with pytest.raises(flowcut.FlowCutError, match=r"in vit: flowcut reads CLIP vision towers"):
        flowcut.record(ViTModel(config))
    with pytest.raises(flowcut.FlowCutError, match=r"Linear.*CLIP vision towers"):
        flowcut.record(torch.nn.Linear(2, 2))


def test_a_grid_that_is_not_the_trained_one() -> None:
    model = tiny.clip()
    wide = torch.randn(1, 3, 36, 60, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(tokens=9)) as rec:
        model(wide, interpolate_pos_encoding=True)
    assert rec.record.n_patches == 60
    assert CLIPVisionConfig().model_type == rec.record.family
