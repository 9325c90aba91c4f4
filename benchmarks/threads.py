"""What other work on the machine costs: answers quiet, and beside one and two processes that keep a core busy.

Three things are timed, each as the app and the command line now begin (threads that wait sleep) and as OpenMP does by
itself (they spin for a while): `ask` on the embedded model, warm; the first own answer of a server that was just
started, typed into the page in Chromium; and the answers of every method at one budget. Each is set against its own
quiet time in the same run.

    python -m benchmarks.threads                # writes benchmarks/threads.md and .json; about eight minutes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

from benchmarks.serving import free_port, serving
from benchmarks.visitors import FLAGS

POLICIES: dict[str, dict[str, str | None]] = {
    "now": {"OMP_NUM_THREADS": None, "OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None},
    "spinning": {"OMP_NUM_THREADS": None, "OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": "300000"},
}
"""Variables of a run; the second is what GNU OpenMP does where nobody says anything, which a user has here said."""
BUSY = (0, 1, 2)
QUESTION = "What colour is the largest object?"
THINGS = {
    "ask": "`ask`, warm",
    "first": "first own answer of a cold server",
    "compare": "`compare`, all methods",
}
SECONDS = 300
LIMIT = 12
"""Seconds after which questions, and the comparison, break off; the table says so."""
IN_PROCESS = """
import sys, time, json
LIMIT = float(sys.argv[3])
from flowcut.threads import share_processors
share_processors()
import flowcut
from flowcut.criteria import METHODS
from flowcut_lens.scenes import draw
model, image = flowcut.load("embedded"), draw(2000018).image
question = sys.argv[1]
for _ in range(2):
    full = flowcut.ask(model, image, question)
asks = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    flowcut.ask(model, image, question, flowcut.FlowCut(tokens=64))
    asks.append(time.perf_counter() - began)
    if sum(asks) > LIMIT:
        break
refused = flowcut.refusals(model)
names = [name for name, method in METHODS.items() if name not in refused and not method.takes_patches]
began = time.perf_counter()
for _ in flowcut.compare_methods(model, image, question, full, [flowcut.Cut(name, tokens=64) for name in names]):
    if time.perf_counter() - began > LIMIT:
        break
print(json.dumps({"ask": asks, "compare": [time.perf_counter() - began]}))
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that each keep one core busy."""
    with ExitStack() as ended:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            ended.callback(process.wait)
            ended.callback(process.kill)
        yield


def in_process(policy: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every warm `ask`, and of one comparison of all methods."""
    variables = {**os.environ, **POLICIES[policy]}
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS, QUESTION, str(rounds), str(LIMIT)],
        env={name: value for name, value in variables.items() if value is not None},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def first_answer(policy: str) -> float:
    """Seconds from pressing Run to the three answers, on a page that was opened as soon as its server answered."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "flowcut"), "app", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        with serving(command, Path(folder), Path(folder) / "log.txt", port, **POLICIES[policy]) as served:
            page = browser.new_page()
            page.goto(served.url)
            page.get_by_test_id("answers").wait_for(timeout=SECONDS * 1000)
            page.get_by_role("textbox", name="Question").fill(QUESTION)
            began = time.perf_counter()
            page.get_by_role("button", name=re.compile(r"Run$")).click()
            expect(page.get_by_test_id("question")).to_have_text(QUESTION, timeout=SECONDS * 1000)
            page.get_by_test_id("answers").wait_for(timeout=SECONDS * 1000)
            seconds = time.perf_counter() - began
        browser.close()
    return seconds


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row for each policy and number of busy processes: the medians of the three things, in seconds."""
    rows = []
    for policy in POLICIES:
        for count in BUSY:
            with busy(count):
                found = in_process(policy, 5 * rounds)
                found["first"] = [first_answer(policy) for _ in range(rounds)]
            seconds = {thing: statistics.median(found[thing]) for thing in THINGS}
            rows.append({"policy": policy, "busy": count, **seconds})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """The table, as Markdown: seconds, and the ratio to the quiet time under the same policy."""
    lines = [
        "# What other work on the machine costs",
        "",
        "Seconds (medians), and in brackets the ratio to the quiet time. `now`: as the app and the command line begin;",
        "`spinning`: as OpenMP waits where nobody says otherwise. The embedded model, float32,",
        f"{os.cpu_count()} cores; a busy process keeps one core busy. Python {platform.python_version()},",
        f"torch {version('torch')}. Written by `python -m benchmarks.threads`.",
        "",
        "| threads | busy processes | " + " | ".join(THINGS.values()) + " |",
        "|-|-|" + "-|" * len(THINGS),
    ]
    for row in rows:
        quiet = next(one for one in rows if one["policy"] == row["policy"] and one["busy"] == 0)
        cells = [_cell(thing, row[thing], quiet[thing]) for thing in THINGS]
        lines.append(f"| {row['policy']} | {row['busy']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(thing: str, seconds: float, quiet: float) -> str:
    broken_off = thing == "compare" and seconds > LIMIT
    over = "over " if broken_off else ""
    return f"{over}{seconds:.2f} ({over}{seconds / quiet:.1f})"


def main() -> None:
    """Measure, and write the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="cold servers for each row; five times as many questions")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    wanted = parser.parse_args()
    rows = measure(wanted.rounds)
    wanted.out.write_text(report(rows), encoding="utf-8")
    wanted.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
