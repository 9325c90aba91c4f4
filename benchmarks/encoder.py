"""What looking costs: the vision encoder plain, pruned, recorded, both, and as eager attention would do it.

Each way runs in a process of its own, so that its peak memory is its own; times are medians, and stated as a
ratio to the plain SDPA run of the same round. Weights are random: attention is then nearly even, entropy asks for
little, and most patches go at the last, forced step. So the pruned rows are FlowCut's dearest case, not its usual one.

    python -m benchmarks.encoder                        # writes benchmarks/encoder.md and .json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CLIPVisionConfig, CLIPVisionModel

import flowcut
from flowcut.encoder.recording import record

SHAPES: dict[str, dict[str, Any]] = {
    "embedded (12 layers, width 128, 4 heads)": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
    },
    "CLIP-L/336 (24 layers, width 1024, 16 heads)": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
}
WAYS = {
    "plain SDPA": "what stock transformers runs",
    "pruned to 64": "FlowCut official, nothing recorded",
    "recorded": "all flows of all layers, nothing pruned",
    "recorded, pruned to 64": "what the Ask page runs",
    "eager attentions": "output_attentions=True: every N x N matrix of every head is held",
}


def _forward(model: CLIPVisionModel, pixels: torch.Tensor, way: str) -> None:
    if way == "plain SDPA":
        model(pixels)
    elif way == "eager attentions":
        model(pixels, output_attentions=True)
    else:
        cut = flowcut.FlowCut(tokens=64) if "64" in way else None
        with record(model, cut=cut, flows="recorded" in way) as recording:
            model(pixels)
        assert recording.record.n_layers > 0


def _measure(shape: str, way: str, repeats: int, pipe: Any) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = CLIPVisionConfig(image_size=336, patch_size=14, **SHAPES[shape])
    model = CLIPVisionModel._from_config(
        config, attn_implementation="eager" if way.startswith("eager") else "sdpa"
    ).eval()
    pixels = torch.randn(1, 3, 336, 336)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        _forward(model, pixels, way)
        pipe.send(None)
        while pipe.recv():
            began = time.perf_counter()
            _forward(model, pixels, way)
            pipe.send(time.perf_counter() - began)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def measure(shape: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, median ratio to the plain run of the same round, and extra peak memory (MiB) of every way."""
    context, workers = multiprocessing.get_context("spawn"), {}
    for way in WAYS:
        ours, theirs = context.Pipe()
        process = context.Process(target=_measure, args=(shape, way, repeats, theirs), daemon=True)
        process.start()
        ours.recv()  # warmed up; one way at a time, so that they do not disturb one another
        workers[way] = (process, ours)
    rounds = []
    for _ in range(repeats):  # in turn, so that a slow moment of the machine hits all ways alike
        times = {}
        for way, (_, pipe) in workers.items():
            pipe.send(True)
            times[way] = pipe.recv()
        rounds.append(times)
    memory = {}
    for way, (process, pipe) in workers.items():
        pipe.send(False)
        memory[way] = pipe.recv()
        process.join()
    return {
        way: {
            "seconds": statistics.median(times[way] for times in rounds),
            "time_ratio": statistics.median(times[way] / times["plain SDPA"] for times in rounds),
            "peak_mib": memory[way],
        }
        for way in WAYS
    }


def table(results: dict[str, dict[str, dict[str, float]]], facts: str) -> str:
    lines = ["# What looking costs", "", facts, ""]
    for shape, ways in results.items():
        lines += [f"## {shape}", "", "| way | time / plain SDPA | seconds | extra peak memory, MiB | |", "|-|-|-|-|-|"]
        for way, row in ways.items():
            figures = f"{row['time_ratio']:.2f} | {row['seconds']:.3f} | {row['peak_mib']:.0f}"
            lines.append(f"| {way} | {figures} | {WAYS[way]} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    results = {shape: measure(shape, arguments.repeats) for shape in SHAPES}
    facts = (
        f"One picture of 336 x 336, batch 1, float32, one thread, medians of {arguments.repeats} rounds. "
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()} CPU. Random weights: attention is nearly even, so most patches go only at "
        "the last, forced step, which is FlowCut's dearest case. Written by `python -m benchmarks.encoder`."
    )
    folder = Path(__file__).parent
    (folder / "encoder.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "encoder.md").write_text(table(results, facts))
    print(table(results, facts))


if __name__ == "__main__":
    main()
