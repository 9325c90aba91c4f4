"""The cost benchmarks at tiny sizes: every way runs, ratios are of one round, and stored pages are their numbers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks import decoding, encoder, real_size, ways

FOLDER = Path(ways.__file__).parent
ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 140,
}


def test_ratios_are_to_the_plain_run_of_the_same_round() -> None:
    rounds = [{ways.PLAIN: 1.0, "other": 2.0}, {ways.PLAIN: 10.0, "other": 40.0}, {ways.PLAIN: 2.0, "other": 6.0}]
    rows = ways.medians(rounds)
    assert rows["other"] == {"seconds": 6.0, "time_ratio": 3.0}
    assert rows[ways.PLAIN] == {"seconds": 2.0, "time_ratio": 1.0}


def test_ways_are_run_in_turn() -> None:
    order: list[str] = []

    def run(way: str) -> float:
        order.append(way)
        return float(len(order))

    assert ways.in_turn("ab", run, 2) == [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]
    assert order == ["a", "b", "a", "b"]


@pytest.mark.parametrize(("module", "columns"), [(decoding, ways.TIME_COLUMNS), (encoder, encoder.COLUMNS)])
def test_a_stored_page_is_made_of_its_stored_numbers(module: Any, columns: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    results = json.loads((FOLDER / f"{name}.json").read_text())
    page = (FOLDER / f"{name}.md").read_text()
    facts = page.splitlines()[2]
    assert ways.tables(module.TITLE, facts, results, module.WAYS, columns) == page


def test_decoding_runs_every_way() -> None:
    rows = decoding.measure({"layers": 2, "width": 32, "heads": 2}, visual=9, tokens=3, repeats=1)
    assert list(rows) == list(decoding.WAYS)
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows[ways.PLAIN]["time_ratio"] == 1


@pytest.mark.parametrize("way", encoder.WAYS)
def test_the_encoder_runs_every_way(way: str) -> None:
    with torch.no_grad():
        encoder.forward(encoder.build(ENCODER, way), torch.randn(1, 3, 140, 140), way)


def test_each_way_of_the_encoder_has_a_process_of_its_own() -> None:
    rows = encoder.measure(ENCODER, repeats=1, ways=[ways.PLAIN])
    assert list(rows) == [ways.PLAIN]
    assert rows[ways.PLAIN]["seconds"] > 0
    assert rows[ways.PLAIN]["time_ratio"] == 1
    assert rows[ways.PLAIN]["peak_mib"] >= 0


def tiny_llava(decoder_layers: int) -> Any:
    config = real_size.shared_config(decoder_layers)
    config["vision_config"] |= {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 56,
    }  # fmt: skip
    config["text_config"] |= {
        "hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": 128,
    }  # fmt: skip
    return LlavaForConditionalGeneration(LlavaConfig(**{**config, "image_seq_length": 16}))


def test_real_size_counts_what_each_way_keeps() -> None:
    shape = real_size.Shape("tiny", tiny_llava, {"pixel_values": (1, 3, 56, 56)}, (4,))
    model = real_size.random_model(shape.build, 1, torch.float32, torch.device("cpu"))
    results = real_size.in_turn(model, shape, rounds=1)
    assert {name: row["visual_tokens"] for name, row in results.items()} == {
        "stock": 16,
        "nothing cut": 16,
        "FlowCut 4": 4,
    }
    length = real_size.TEXT_TOKENS + real_size.ANSWER_TOKENS - 1  # the last token of an answer is not read again
    for row in results.values():
        assert row["kv_bytes"] == 2 * 4 * 128 * (length + row["visual_tokens"])
        assert row["vision_ratio"] > 0
    assert "| FlowCut 4 | 4 |" in real_size.table("tiny", results, "Facts.")
