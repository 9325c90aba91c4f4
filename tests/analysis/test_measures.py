"""Concentration: slow, literal references; values small enough to check by hand; claims that follow from numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowcut.cut import CutConfig, FlowCut
from flowcut.records.store import load_run
from flowcut_lens.analysis.measures import METRICS, concentration, kendall_tau
from tests.analysis import synthetic

ROOT = Path(__file__).resolve().parents[2]


def naive_entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def naive_gini(p: list[float]) -> float:
    return sum(abs(a - b) for a in p for b in p) / (2 * len(p) * sum(p))


def naive_top(p: list[float]) -> float:
    return sum(sorted(p, reverse=True)[: math.ceil(round(len(p) / 10, 9))]) / sum(p)


NAIVE = {
    "entropy_ratio": lambda p: naive_entropy(p) / math.log(len(p)) if len(p) > 1 else 0.0,
    "gini": naive_gini,
    "top_mass": naive_top,
    "effective_tokens": lambda p: math.exp(naive_entropy(p)),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_patches", [1, 2, 9, 10, 30, 57])
def test_a_metric_equals_its_literal_definition_also_beside_dead_patches(metric: str, n_patches: int) -> None:
    shares = np.random.default_rng(n_patches).dirichlet(np.full(n_patches, 0.3), size=(3, 4))
    padded = np.concatenate([shares, np.zeros((3, 4, 57 - n_patches))], axis=-1)
    measured = METRICS[metric].function(padded, np.full((3, 4), n_patches))
    expected = [[NAIVE[metric](list(row)) for row in layer] for layer in shares]
    np.testing.assert_allclose(measured, expected, rtol=1e-10, atol=1e-12)


def test_even_and_single_attention_are_the_ends_of_every_scale() -> None:
    even, single, n_patches = np.full(20, 0.05), np.eye(20)[3], np.array(20)
    assert METRICS["entropy_ratio"].function(even, n_patches) == pytest.approx(1)
    assert METRICS["entropy_ratio"].function(single, n_patches) == 0
    assert METRICS["gini"].function(even, n_patches) == pytest.approx(0)
    assert METRICS["gini"].function(single, n_patches) == pytest.approx(0.95)
    assert METRICS["top_mass"].function(even, n_patches) == pytest.approx(0.1)
    assert METRICS["top_mass"].function(single, n_patches) == 1
    assert METRICS["effective_tokens"].function(even, n_patches) == pytest.approx(20)
    assert METRICS["effective_tokens"].function(single, n_patches) == pytest.approx(1)


@pytest.mark.parametrize("cut", [None, FlowCut(20)])
def test_every_layer_and_head_of_a_record(cut: CutConfig | None) -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8), cut)
    measured = concentration(record)
    for layer in record.layers:
        for head in range(record.n_heads):
            row = layer.cls_row[0, head, 1:].astype(float)
            for metric in METRICS:
                expected = NAIVE[metric](list(row / row.sum()))
                assert measured.curve(metric).per_head[layer.layer, head] == pytest.approx(expected, rel=1e-6)


def test_pooled_entropy_is_what_the_schedule_read() -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8), FlowCut(20))
    pooled = concentration(record).entropy_ratio.pooled
    requested = [step for step in record.steps if not step.clamped]
    assert requested
    for step in requested:
        assert pooled[step.layer] == pytest.approx(step.entropy_ratio[0], abs=1e-6)


def test_pooled_entropy_is_what_the_schedule_read_in_stored_runs_of_the_embedded_model() -> None:
    stored = list((ROOT / "assets" / "examples").glob("*/cut/*"))
    assert stored
    for folder in stored:
        record = load_run(folder).record
        assert record is not None
        pooled = concentration(record).entropy_ratio.pooled
        for step in record.steps:
            assert step.clamped or pooled[step.layer] == pytest.approx(step.entropy_ratio[0], abs=1e-5)


def test_removals_are_the_steps() -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8), FlowCut(20))
    measured = concentration(record)
    for step in record.steps:
        assert measured.removed[step.layer] == step.kept_before - step.kept_after
        assert measured.clamped[step.layer] == step.clamped
    assert measured.removed.sum() == 64 - 20
    assert measured.n_patches[-1] == 20


def test_attention_to_nothing_but_cls_is_not_a_number_rather_than_a_guess() -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=4))
    layer = record.layers[0]
    row = np.zeros_like(layer.cls_row)
    row[..., 0] = 1
    record = replace(record, layers=(replace(layer, cls_row=row), *record.layers[1:]))
    assert np.isnan(concentration(record).entropy_ratio.pooled[0])


def test_a_record_without_layers_is_refused() -> None:
    record = replace(synthetic.flow_record(synthetic.Encoder(grid=4)), layers=())
    with pytest.raises(ValueError, match="record=True"):
        concentration(record)


def test_kendall_tau_counts_pairs() -> None:
    layers = np.arange(4)
    assert kendall_tau(layers, np.array([4.0, 3, 2, 1])) == -1
    assert kendall_tau(layers, np.array([1.0, 1, 1, 1])) == 0
    assert kendall_tau(layers, np.array([1.0, 3, 2, 4])) == pytest.approx(4 / 6)
    assert kendall_tau(layers[:1], np.array([1.0])) == 0
