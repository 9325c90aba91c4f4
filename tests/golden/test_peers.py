"""Parity with the peers' released code: the vectors here, and the whole collection where it lies beside the checkout.

Ids, their order and pivots must be identical; hidden states within 1e-5, tokens handed to the projector within 6e-5.
What was computed with the shipped weights is compared from recorded evidence, so that it holds with other weights too.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

import flowcut
from flowcut.criteria import METHODS, Evidence, highest
from flowcut.criteria.projector import cdpruner
from flowcut.encoder.passes import BatchPass
from flowcut.encoder.plan import EncoderPlan
from tests.golden.test_parity import BESIDE
from tests.golden.test_parity import HERE as VECTORS

HERE = VECTORS / "peers"
ROOTS = [root for root in (HERE, BESIDE / "peers") if root.is_dir()]
VISUAL = (7, 576)
SCENE = "scene-2000005"
GRID = 24
DECODER = ("fastv", "pyramiddrop", "dart", "sparsevlm")

every_collection = pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.parent.name)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def float64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)[None]


@every_collection
def test_vispruner(root: Path) -> None:
    given, wanted = np.load(root / "vispruner" / "evidence.npz"), read(root / "vispruner" / "kept.json")
    for key, kept in wanted.items():
        sample, tokens, share = key.split("_")
        attention, features = (float64(given[f"{name}_{sample}"]) for name in ("attention", "features"))
        evidence = Evidence(1, attention.shape[1], cls_attention=attention, features=features)
        cut = flowcut.Cut("vispruner", tokens=int(tokens), important_share=float(share))
        assert METHODS["vispruner"].select(evidence, cut)[0].tolist() == kept, key
    assert {key.split("_")[2] for key in wanted} == {"0.5", "0.75"}


@every_collection
def test_hiprune(root: Path) -> None:
    means, wanted = np.load(root / "hiprune" / "column_means.npz"), read(root / "hiprune" / "kept.json")
    as_paper = 0
    for number, one in enumerate(wanted):
        middle, deep = float64(means["middle"][number]), float64(means["deep"][number])
        evidence = Evidence(1, middle.shape[1], middle_mean=middle, deep_mean=deep, grid_cols=GRID)
        official, paper = (
            METHODS["column-mean"].select(evidence, flowcut.Cut("column-mean", one["tokens"], variant=variant))[0]
            for variant in ("official", "paper")
        )
        assert official.tolist() == sorted(one["kept"]), number
        as_paper += official.tolist() == paper.tolist()
    assert as_paper < len(wanted)  # anchors at the edges are among them


@every_collection
def test_cdpruner(root: Path) -> None:
    given, wanted = np.load(root / "cdpruner" / "evidence.npz"), read(root / "cdpruner" / "kept.json")
    for key, kept in wanted.items():
        sample, tokens = key.split("_")
        parts = [given[f"{name}_{sample}"].astype(np.float64) for name in ("patches", "texts", "features")]
        assert highest(cdpruner(*parts, int(tokens)), int(tokens)).tolist() == kept, key


@cache
def decoder32(root: Path) -> LlamaModel:
    """A LLaMA of 32 layers; it reads embeddings, and so has none of its own."""
    config = LlamaConfig(**read(root / "decoder32" / "config.json"), attn_implementation="sdpa")
    model = LlamaModel(config).eval()
    weights = np.load(root / "decoder32" / "model.npz")
    missing = model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights}, strict=False)
    assert missing.missing_keys == ["embed_tokens.weight"]
    return model


def read_under(root: Path, cut: flowcut.CutConfig) -> tuple[flowcut.LanguageRecord, np.ndarray]:
    """The record of the prompt, and the last hidden state of its last token."""
    embedded = torch.from_numpy(np.load(root / "decoder32" / "inputs.npz")["inputs_embeds"])
    with torch.no_grad(), flowcut.record_language(decoder32(root), VISUAL, cut) as rec:
        out = decoder32(root)(inputs_embeds=embedded, use_cache=False)
    return rec.record, out.last_hidden_state[0, -1].numpy()


def steps_of(name: str, wanted: Any) -> list[list[int]]:
    """What was kept after each step, as each method's file says it."""
    if name == "fastv":
        return [wanted]
    if name == "dart":
        return [wanted["kept"]]
    steps: list[list[int]] = wanted["steps"] if name == "sparsevlm" else wanted
    return steps


def kept_after_each_step(record: flowcut.LanguageRecord) -> list[list[int]]:
    assert record.pruned_at_layer is not None
    pruned_at = record.pruned_at_layer[0]
    return [
        np.flatnonzero((pruned_at < 0) | (pruned_at > layer)).tolist() for layer in np.unique(pruned_at[pruned_at >= 0])
    ]


@every_collection
@pytest.mark.parametrize("name", DECODER)
def test_inside_the_language_model(root: Path, name: str) -> None:
    """At every budget: the kept ids after each step, where they were noted, and what comes out of the last layer."""
    wanted, last = read(root / name / "decoder32.json"), np.load(root / "decoder32" / "last_hidden.npz")
    budgets = [key.removeprefix(f"{name}_") for key in last if key.startswith(f"{name}_")]
    assert set(wanted) <= set(budgets)
    for tokens in budgets:
        record, hidden = read_under(root, flowcut.Cut(name, tokens=int(tokens)))
        np.testing.assert_allclose(hidden, last[f"{name}_{tokens}"], rtol=0, atol=1e-5)
        if tokens in wanted:
            assert kept_after_each_step(record) == [sorted(ids) for ids in steps_of(name, wanted[tokens])]


def test_dart_as_the_paper_has_it_keeps_others() -> None:
    record, _ = read_under(HERE, flowcut.Cut("dart", tokens=68, variant="paper"))
    assert record.kept(0).tolist() != read(HERE / "dart" / "decoder32.json")["68"]["kept"]
    assert any("order of a Python set" in sentence for sentence in record.differs_from_release)


@cache
def shown() -> dict[str, np.ndarray]:
    """What the feature layer of a trained model showed of one scene: float32, CLS first among `hidden` [577, width]."""
    return dict(np.load(HERE / f"evidence_of_{SCENE}.npz"))


def of_scene(root: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(root / name / "embedded.json")[SCENE]
    return found


@every_collection
def test_fastervlm_reads_the_feature_layer(root: Path) -> None:
    evidence = Evidence(1, 576, cls_attention=float64(shown()["cls_attention"]))
    for tokens, kept in of_scene(root, "fastervlm").items():
        assert METHODS["cls-attention"].select(evidence, flowcut.Cut("cls-attention", int(tokens)))[0].tolist() == kept
    assert "feature layer, as FasterVLM's" in METHODS["cls-attention"].source


@every_collection
def test_divprune(root: Path) -> None:
    evidence = Evidence(1, 576, features=float64(shown()["projected"]))
    for tokens, kept in of_scene(root, "divprune").items():
        assert METHODS["divprune"].select(evidence, flowcut.Cut("divprune", int(tokens)))[0].tolist() == sorted(kept)


def cut_by_visionzip(tokens: int, variant: str = "official") -> tuple[list[int], np.ndarray]:
    """Patch ids and the rows that leave the feature layer, CLS first, of the scene whose evidence was recorded."""
    cut = flowcut.Cut("visionzip", tokens=tokens, variant=variant)
    plan = EncoderPlan(cut, n_layers=12, n_heads=4, feature_layer=10, read_layer=10, flows=False)
    encoder = cast(Any, None)  # looked into only by methods that read a deeper layer
    passing = BatchPass(encoder, plan, {"scoring": 0.0}, torch.zeros(1, 128, GRID, GRID))
    group = passing.prune_groups[0]
    group.evidence = {name: torch.from_numpy(shown()[name])[None] for name in ("cls_attention", "keys")}
    rows = passing.cut_after(10, torch.from_numpy(shown()["hidden"])[None])
    assert rows is not None
    return group.kept_ids[0].tolist(), rows[0].numpy()


@every_collection
def test_visionzip_hands_over_the_same_tokens_in_the_same_order(root: Path) -> None:
    wanted = np.load(root / "visionzip" / "tokens.npz")
    for tokens, dominant in ((64, 54), (65, 55)):
        _, rows = cut_by_visionzip(tokens)
        np.testing.assert_allclose(rows, wanted[f"{SCENE}_dominant{dominant}_contextual10"], rtol=0, atol=6e-5)
    for tokens, one in ((int(key), one) for key, one in of_scene(root, "visionzip").items()):
        ids, rows = cut_by_visionzip(tokens)
        assert ids == sorted(one["dominant"]) + sorted(one["contextual_targets"])
        assert len(rows) == tokens


def test_visionzip_as_the_paper_has_it_differs_in_cls_and_order_alone() -> None:
    ids, rows = cut_by_visionzip(64, "paper")
    assert ids == sorted(ids)
    assert len(rows) == 65  # CLS is the encoder's own still, and no token of the 64
    official = np.load(HERE / "visionzip" / "tokens.npz")[f"{SCENE}_dominant55_contextual10"]
    _, order = cut_by_visionzip(65)
    np.testing.assert_allclose(rows[np.lexsort(rows.T)], official[np.lexsort(official.T)], rtol=0, atol=6e-5)
    assert not np.allclose(rows, order, rtol=0, atol=6e-5)
