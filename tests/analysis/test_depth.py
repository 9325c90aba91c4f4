"""What changes with depth, counted patch by patch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from flowcut.cut import CutConfig, FlowCut
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.depth import density, flow_shares, spread, streamlines
from tests.analysis import synthetic

ENCODER = synthetic.Encoder(grid=6, n_layers=5, n_heads=3)
CUTS = [None, FlowCut(9)]


def chains(seed: int = 0, cut: CutConfig | None = None) -> FlowRecord:
    """A record whose main sources and destinations are drawn, CLS, self and nobody among them."""
    record = synthetic.flow_record(ENCODER, cut)
    rng = np.random.default_rng(seed)
    layers = []
    for layer in record.layers:
        own = np.concatenate([[-1], layer.patch_ids[0]])
        sources, destinations = layer.top_source_ids.copy(), rng.choice(own, size=(1, len(own)))
        sources[0, :, 0] = np.where(rng.random(len(own)) < 0.3, own, rng.choice(own, size=len(own)))
        destinations[0, rng.random(len(own)) < 0.1] = -2
        layers.append(replace(layer, top_source_ids=sources, top_destination_id=destinations))
    return replace(record, layers=tuple(layers))


@pytest.mark.parametrize("cut", CUTS)
def test_flow_in_and_flow_out_are_counted(cut: CutConfig | None) -> None:
    record = chains(cut=cut)
    found = flow_shares(record)
    for index, layer in enumerate(record.layers):
        own = layer.patch_ids[0]
        for shares, partners in (
            (found.source, layer.top_source_ids[0, 1:, 0]), (found.destination, layer.top_destination_id[0, 1:]),
        ):  # fmt: skip
            counted = dict.fromkeys(("cls", "self", "patch", "none"), 0)
            for patch, partner in zip(own, partners, strict=True):
                kind = {-1: "cls", -2: "none", int(patch): "self"}.get(int(partner), "patch")
                counted[kind] += 1
            assert {kind: share[index] for kind, share in shares.items()} == pytest.approx(
                {kind: count / len(own) for kind, count in counted.items()}
            )
        sources = layer.top_source_ids[0, 1:, 0]
        others = [int(source) for patch, source in zip(own, sources, strict=True) if source != patch]
        assert others.count(found.largest_hub[index]) == max(others.count(source) for source in others)
        assert found.hubs[index] == len({int(s) for p, s in zip(own, sources, strict=True) if s >= 0 and s != p})
        assert found.n_patches[index] == len(own)


@pytest.mark.parametrize(("relay", "tokens"), [("cls", 37), ("proxy", 36)])
def test_distance_and_entropy(relay: str, tokens: int) -> None:
    record = replace(synthetic.flow_record(ENCODER), relay=relay)
    found = spread(record)
    for index, layer in enumerate(record.layers):
        np.testing.assert_allclose(found.entropy_ratio[index], layer.row_entropy[0] / math.log(tokens), rtol=1e-6)
        np.testing.assert_array_equal(found.distance[index], layer.attention_distance[0])
    even = replace(record.layers[0], row_entropy=np.full((1, 3), math.log(tokens), np.float32))
    assert spread(replace(record, layers=(even,))).entropy_ratio == pytest.approx(1)


@pytest.mark.parametrize("cut", CUTS)
def test_density_is_a_mean_over_patches_alive(cut: CutConfig | None) -> None:
    record = synthetic.flow_record(ENCODER, cut)
    found = density(record)
    for index, layer in enumerate(record.layers):
        norms, mass = layer.value_norm[0, 1:].astype(float), layer.received_mass[0, 1:].astype(float)
        n = len(norms)
        assert found.value[index] == pytest.approx(sum(norms) / n)
        assert found.delivered[index] == pytest.approx(sum(m * w for m, w in zip(mass, norms, strict=True)) / n)
        np.testing.assert_array_equal(found.value_norms[index], norms)
        assert found.quantiles[index, 2] == pytest.approx(np.median(norms))
        assert list(found.quantiles[index]) == sorted(found.quantiles[index])
        assert found.n_patches[index] == n


@pytest.mark.parametrize("cut", CUTS)
def test_streamlines_follow_step_by_step(cut: CutConfig | None) -> None:
    record = chains(3, cut)
    back = streamlines(record)
    n_patches = record.layers[-1].patch_ids[0]
    np.testing.assert_array_equal(back.ids[:, -1], n_patches)
    onwards = streamlines(record, [0, 7, 35], "outflow")
    assert back.layers.tolist() == onwards.layers.tolist() == [0, 1, 2, 3]  # layer 4 is not read
    for found, order in ((back, range(3, -1, -1)), (onwards, range(4))):
        for chain in found.ids:
            for index in order:
                layer = record.layers[index]
                here, there = (index + 1, index) if found is back else (index, index + 1)
                own = [-1, *layer.patch_ids[0].tolist()]
                partners = layer.top_source_ids[0, :, 0] if found is back else layer.top_destination_id[0]
                expected = int(partners[own.index(chain[here])]) if chain[here] in own else -2
                assert chain[there] == expected
    np.testing.assert_array_equal(back.through_cls, [-1 in chain for chain in back.ids.tolist()])
    assert back.through_cls.any()
    assert (onwards.ids == -2).any() or cut is None


def test_a_chain_begins_where_its_patch_is() -> None:
    record = chains(cut=FlowCut(9))
    pruned = int(np.flatnonzero(record.pruned_at_layer[0] >= 0)[0])
    with pytest.raises(ValueError, match=f"Patch {pruned} is pruned before layer 3"):
        streamlines(record, [pruned])
    assert streamlines(record, [pruned], "outflow").ids[0, 0] == pruned
