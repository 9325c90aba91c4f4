"""What recording costs: the vision encoder plain, pruned, recorded, both, and as eager attention would do it.

Each way runs in a process of its own, so that its peak memory is its own; times are medians, and stated as a
ratio to the plain SDPA run of the same round. Weights are random: attention is then nearly even, entropy requests
little, and most patches are pruned at the last, clamped step. So the pruned rows are FlowCut's dearest case.

    python -m benchmarks.encoder                        # writes benchmarks/encoder.md and .json
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

import flowcut
from benchmarks.ways import PLAIN, TIME_COLUMNS, Rows, in_turn, medians, tables, versions, write
from flowcut.encoder.recording import record

SIDE, PATCH = 336, 14
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
    PLAIN: "what stock transformers runs",
    "pruned to 64": "FlowCut official, nothing recorded",
    "recorded": "all flows of all layers, nothing pruned",
    "recorded, pruned to 64": "what the Ask page runs",
    "eager attentions": "output_attentions=True: every N x N matrix of every head is held",
}


TITLE = "What recording costs"
COLUMNS = (*TIME_COLUMNS, ("extra peak memory, MiB", "peak_mib", ".0f"))


def forward(model: CLIPVisionModel, pixels: torch.Tensor, way: str) -> None:
    """One picture through the encoder."""
    if way == PLAIN:
        model(pixels)
    elif way == "eager attentions":
        model(pixels, output_attentions=True)
    else:
        cut = flowcut.FlowCut(tokens=64) if "64" in way else None
        with record(model, cut=cut, flows="recorded" in way) as recording:
            model(pixels)
        assert recording.record.n_layers > 0


def build(shape: dict[str, Any], way: str) -> CLIPVisionModel:
    """An encoder with random weights of the shape, with the attention that the way needs."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(**{"image_size": SIDE, "patch_size": PATCH, **shape})
    attention = "eager" if way.startswith("eager") else "sdpa"
    return CLIPVisionModel._from_config(config, attn_implementation=attention).eval()


def _work(shape: dict[str, Any], way: str, pipe: Any) -> None:
    """One way in this process: warms up, then a run for every True that comes, at last its extra peak memory in MiB."""
    torch.set_num_threads(1)
    model = build(shape, way)
    pixels = torch.randn(1, 3, model.config.image_size, model.config.image_size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        forward(model, pixels, way)
        pipe.send(None)
        while pipe.recv():
            began = time.perf_counter()
            forward(model, pixels, way)
            pipe.send(time.perf_counter() - began)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def measure(shape: dict[str, Any], repeats: int, ways: Iterable[str] = WAYS) -> Rows:
    """Median seconds, median ratio to the plain run of the same round, and extra peak memory (MiB) of every way."""
    context, workers = multiprocessing.get_context("spawn"), {}
    for way in ways:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(shape, way, theirs), daemon=True)
        process.start()
        theirs.close()  # ours is the only other end, so that a process that has failed ends the waiting
        ours.recv()  # warmed up; one way at a time, so that they do not disturb one another
        workers[way] = (process, ours)

    def seconds(way: str) -> float:
        workers[way][1].send(True)
        return float(workers[way][1].recv())

    rows = medians(in_turn(workers, seconds, repeats))
    for way, (process, pipe) in workers.items():
        pipe.send(False)
        rows[way]["peak_mib"] = pipe.recv()
        process.join()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    results = {name: measure(shape, arguments.repeats) for name, shape in SHAPES.items()}
    facts = (
        f"One picture of {SIDE} x {SIDE}, batch 1, float32, one thread, medians of {arguments.repeats} rounds. "
        f"{versions()}. Random weights: attention is nearly even, so most patches are pruned only at the last, clamped "
        "step, which is FlowCut's dearest case. Written by `python -m benchmarks.encoder`."
    )
    write(Path(__file__).parent, "encoder", results, tables(TITLE, facts, results, WAYS, COLUMNS))


if __name__ == "__main__":
    main()
