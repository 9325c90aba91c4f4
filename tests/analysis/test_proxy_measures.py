"""The CLS row beside other readings of the attention, against whole matrices and scipy; sinks by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from flowcut.cut import CutConfig, FlowCut
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.agreement import row_spearman
from flowcut_lens.analysis.proxy import cls_proxy, rollout, sinks
from tests.analysis import synthetic

ENCODER = synthetic.Encoder(grid=6, n_layers=5, n_heads=3)


def with_matrices(cut: CutConfig | None = None, relay: str = "cls") -> FlowRecord:
    """A record with its head-mean matrices; with a proxy nothing attends to token 0."""
    record = synthetic.flow_record(ENCODER, cut)
    layers = []
    for layer in record.layers:
        matrix = ENCODER.attention(layer.layer, layer.patch_ids[0])[0].mean(0)
        if relay == "proxy":
            matrix[:, 0] = 0
            matrix /= matrix.sum(1, keepdims=True)
        layers.append(replace(layer, head_mean=matrix[None].astype(np.float16)))
    return replace(record, layers=tuple(layers), relay=relay)


def test_rows_are_correlated_one_by_one() -> None:
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(size=(2, 3, 20)), 1), rng.normal(size=(2, 3, 20))
    y[1, 2] = 4
    found = row_spearman(x, y)
    for place in [(0, 0), (0, 2), (1, 1)]:
        assert found[place] == pytest.approx(spearmanr(x[place], y[place]).statistic)
    assert np.isnan(found[1, 2])


@pytest.mark.parametrize("cut", [None, FlowCut(9)])
def test_the_cls_row_beside_column_mean_and_values(cut: CutConfig | None) -> None:
    record = synthetic.flow_record(ENCODER, cut)
    found = cls_proxy(record)
    assert found.rollout is None
    for index, layer in enumerate(record.layers):
        attention = ENCODER.attention(layer.layer, layer.patch_ids[0])[0]
        for head in range(3):
            row, norm = attention[head, 0, 1:], layer.value_norm[0, 1:]
            mean = np.array([sum(attention[head, i, j] for i in range(len(row) + 1)) for j in range(1, len(row) + 1)])
            assert found.column_mean.per_head[index, head] == pytest.approx(spearmanr(row, mean).statistic, abs=0.01)
            expected = spearmanr(row, row * norm).statistic
            assert found.value_weighted.per_head[index, head] == pytest.approx(expected, abs=1e-4)
        pooled = spearmanr(attention.mean(0)[0, 1:], attention.mean(0).sum(0)[1:]).statistic
        assert found.column_mean.pooled[index] == pytest.approx(pooled, abs=1e-3)


def test_records_without_mass_by_head_say_so() -> None:
    record = synthetic.flow_record(ENCODER)
    older = replace(record, layers=tuple(replace(layer, received_by_head=None) for layer in record.layers))
    assert np.isnan(cls_proxy(older).column_mean.per_head).all()
    np.testing.assert_array_equal(cls_proxy(older).column_mean.pooled, cls_proxy(record).column_mean.pooled)


@pytest.mark.parametrize("relay", ["cls", "proxy"])
@pytest.mark.parametrize("cut", [None, FlowCut(9)])
def test_rollout_is_the_product_of_all_layers_below(cut: CutConfig | None, relay: str) -> None:
    record = with_matrices(cut, relay)
    found = rollout(record)
    assert found is not None
    product = np.eye(37)
    for layer, flow in zip(record.layers, found, strict=True):
        places = np.concatenate([[0], layer.patch_ids[0] + 1])
        assert layer.head_mean is not None
        whole = np.zeros((37, 37))  # the dead hand on nothing
        whole[np.ix_(places, places)] = 0.5 * layer.head_mean[0].astype(float) + 0.5 * np.eye(len(places))
        if relay == "proxy":
            whole[0, places] = layer.head_mean[0, 0]
        product = whole @ product
        np.testing.assert_allclose(flow, product[0, places[1:]], rtol=1e-9)
    correlations = cls_proxy(record).rollout
    assert correlations is not None
    row = record.layers[2].cls_row[0, 1, 1:]
    assert correlations.per_head[2, 1] == pytest.approx(spearmanr(row, found[2]).statistic)


def test_sinks_are_outliers_of_the_norm() -> None:
    record = synthetic.flow_record(ENCODER, FlowCut(9))
    rng = np.random.default_rng(1)
    layers = []
    for layer in record.layers:
        norm = rng.normal(10, 1, size=layer.hidden_norm.shape).astype(np.float32)
        norm[0, [0, 4]] = 90, 70  # CLS and the fourth patch alive
        layers.append(replace(layer, hidden_norm=norm))
    found = sinks(replace(record, layers=tuple(layers)))
    for index, layer in enumerate(layers):
        patch = int(layer.patch_ids[0, 3])
        assert list(np.flatnonzero(found.marked[index])) == [patch]
        norms = layer.hidden_norm[0, 1:].astype(float)
        middle = np.median(norms)
        assert found.threshold[index] == pytest.approx(middle + 5 * 1.4826 * np.median(abs(norms - middle)))
        row = layer.cls_row[0].mean(0)[1:]
        assert found.cls_share[index] == pytest.approx(row[3] / row.sum(), rel=1e-5)
        received = layer.received_mass[0, 1:]
        assert found.received_share[index] == pytest.approx(received[3] / received.sum(), rel=1e-5)
        assert found.cls_norm[index] == 90
        assert np.isnan(found.norm[index]).sum() == 36 - len(norms)
    assert list(found.count) == [1] * 5
    assert not sinks(record).marked.any()  # all of one length
