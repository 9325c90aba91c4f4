"""What recording an answer costs: decoding plain, with every token's attention recorded, and as eager would do it.

Each way answers the same prompt token by token with stock `generate`; times are medians of rounds taken in turn, stated
as a ratio to plain SDPA decoding of the same round. Weights are random: cost does not depend on them.

    python -m benchmarks.decoding                       # writes benchmarks/decoding.md and .json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.ways import PLAIN, Rows, in_turn, medians, tables, versions, write
from flowcut.decoder.answer_recording import AnswerRecording

SHAPES: dict[str, dict[str, int]] = {
    "embedded (4 layers, width 256, 4 heads)": {"layers": 4, "width": 256, "heads": 4},
    "a quarter of 7B's width, 8 layers (width 1024, 8 heads)": {"layers": 8, "width": 1024, "heads": 8},
}
WAYS = {
    PLAIN: "what stock transformers runs",
    "recorded": "attention and value-weighted norms of every answer token, layer and head",
    "eager attentions": "output_attentions=True: the prompt-by-prompt matrix of every head and layer is held",
}
TEXT_BEFORE, TEXT_AFTER = 8, 24
TITLE = "What recording an answer costs"


def build(shape: dict[str, int], attention: str) -> LlamaForCausalLM:
    """A Llama with random weights of the shape."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=shape["width"],
        intermediate_size=shape["width"] * 11 // 4,
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()


def answer(model: Any, ids: torch.Tensor, way: str, visual: int, tokens: int) -> float:
    """Seconds that an answer of so many tokens takes, prefill included."""
    options: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    began = time.perf_counter()
    if way == "recorded":
        rows = torch.arange(visual) + TEXT_BEFORE
        with AnswerRecording(model, rows, ids.shape[1]) as recording:
            model.generate(ids, **options)
        assert len(recording.attention.visual) == tokens
    elif way == "eager attentions":
        model.generate(ids, **options, return_dict_in_generate=True, output_attentions=True)
    else:
        model.generate(ids, **options)
    return time.perf_counter() - began


def measure(shape: dict[str, int], visual: int, tokens: int, repeats: int) -> Rows:
    """Median seconds, and median ratio to the plain run of the same round, of every way."""
    sdpa, eager = build(shape, "sdpa"), build(shape, "eager")
    model_of = {way: eager if way.startswith("eager") else sdpa for way in WAYS}
    ids = torch.randint(3, 1000, (1, TEXT_BEFORE + visual + TEXT_AFTER))
    _, *rounds = in_turn(WAYS, lambda way: answer(model_of[way], ids, way, visual, tokens), repeats + 1)
    return medians(rounds)  # without the first, the warm-up run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=32, help="answer tokens (default 32)")
    parser.add_argument("--visual", type=int, nargs="+", default=[64, 576], help="visual tokens (default 64 576)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of decoding.md and .json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        f"{name}, {visual} visual tokens": measure(shape, visual, arguments.tokens, arguments.repeats)
        for name, shape in SHAPES.items()
        for visual in arguments.visual
    }
    facts = (
        f"One prompt, {arguments.tokens} answer tokens, prefill included, float32, one thread, on a machine with other "
        f"work: the ways were run in turn, and ratios are medians of {arguments.repeats} rounds, each to the plain run "
        f"of its own round. {versions()}. Written by `python -m benchmarks.decoding`."
    )
    write(arguments.out, "decoding", results, tables(TITLE, facts, results, WAYS))


if __name__ == "__main__":
    main()
