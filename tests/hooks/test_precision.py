"""Autocast and the process's default dtype are the caller's: scores and records are in float32 under both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.encoder.statistics import column_mean
from tests import tiny, tiny_qwen, tiny_video


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": lambda: default_dtype(torch.bfloat16),
}
CHECKPOINTS = {
    "llava": tiny.checkpoint,
    "next": tiny.next_checkpoint,
    "onevision": lambda folder: tiny_video.checkpoint("LlavaOnevision", folder),
    "qwen": lambda folder: tiny_qwen.checkpoint("Qwen2_5_VL", folder),
}
CUTS = {
    "llava": ["flowcut", "visionzip", "column-mean", "divprune", "fastv", "dart", "sparsevlm", "pyramiddrop", None],
    "next": ["flowcut", None],
    "onevision": ["flowcut", None],
    "qwen": ["flowcut", None],
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {kind: flowcut.load(make(tmp_path_factory.mktemp(kind))) for kind, make in CHECKPOINTS.items()}


def floats_of(item: Any) -> list[np.ndarray]:
    arrays = [getattr(item, one.name) for one in fields(item)]
    return [one for one in arrays if isinstance(one, np.ndarray) and one.dtype.kind == "f"]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind in CUTS for method in CUTS[kind]])
def test_a_question_is_answered_and_its_record_read(
    loaded: dict[str, Any], kind: str, method: str | None, around: str, tmp_path: Path
) -> None:
    model = loaded[kind]
    cut = None if method is None else flowcut.Cut(method, tokens=6)
    with AROUND[around]():
        run = flowcut.ask(model, tiny.picture(size=(160, 120)), "What?", cut, max_new_tokens=2, answer_attention=True)
    assert run.record is not None
    run.record.save(tmp_path / "record.safetensors")
    assert {one.dtype.name for layer in run.record.layers for one in floats_of(layer)} <= {"float32", "float16"}
    if run.language_record is not None:
        assert {one.dtype.name for one in floats_of(run.language_record)} == {"float32"}
    assert run.answer_attention is not None
    assert {one.dtype.name for one in floats_of(run.answer_attention)} == {"float32"}


@pytest.mark.parametrize("around", AROUND)
def test_scores_of_the_same_queries_and_keys_are_the_same(around: str) -> None:
    query, key = torch.randn(2, 1, 4, 65, 8, dtype=torch.float32).bfloat16()
    plain = column_mean(query, key, 0.3)
    with AROUND[around]():
        assert torch.equal(column_mean(query, key, 0.3), plain)


def test_under_autocast_a_cut_scores_as_without_it_on_the_same_numbers() -> None:
    """The first layer's queries differ only by autocast's own rounding; the scores add none."""
    tower = tiny.clip().bfloat16()
    found = []
    for around in (torch.autocast("cpu", enabled=False), torch.autocast("cpu", dtype=torch.bfloat16)):
        with around, flowcut.record(tower, flowcut.FlowCut(tokens=9)) as recording:
            tower(tiny.pixels().bfloat16())
        found.append(recording.record.layers[0])
    np.testing.assert_array_equal(found[0].score, found[1].score)
    np.testing.assert_array_equal(found[0].received_mass, found[1].received_mass)
