"""What benchmarks of several ways to run the same thing share: ways in turn, ratios within a round, tables."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
import transformers

PLAIN = "plain SDPA"
"""The way to which all others are compared."""

Times = dict[str, float]
"""Seconds by way."""
Rows = dict[str, dict[str, float]]
"""A table's rows: by way, its numbers by name."""

TIME_COLUMNS = ((f"time / {PLAIN}", "time_ratio", ".2f"), ("seconds", "seconds", ".3f"))
"""Head, number and format of the columns that every table has."""


def in_turn(ways: Iterable[str], run: Callable[[str], float], rounds: int) -> list[Times]:
    """The seconds of every way in every round; in turn, so that a slow moment of the machine hits all ways alike."""
    names = list(ways)
    return [{way: run(way) for way in names} for _ in range(rounds)]


def medians(rounds: Sequence[Times]) -> Rows:
    """By way its median seconds, and the median ratio to the plain run of the same round."""
    return {
        way: {
            "seconds": statistics.median(times[way] for times in rounds),
            "time_ratio": statistics.median(times[way] / times[PLAIN] for times in rounds),
        }
        for way in rounds[0]
    }


def tables(
    title: str,
    facts: str,
    results: Mapping[str, Rows],
    meaning: Mapping[str, str],
    columns: Sequence[tuple[str, str, str]] = TIME_COLUMNS,
) -> str:
    """The results as Markdown, a table for each shape.

    Args:
        title: the page's.
        facts: what was run, and where.
        results: by shape.
        meaning: what each way does, the last column.
        columns: head, number's name and format of the columns between.
    """
    head = " | ".join(["way", *(name for name, _, _ in columns), ""])
    lines = [f"# {title}", "", facts, ""]
    for shape, rows in results.items():
        lines += [f"## {shape}", "", f"| {head}|", "|-" * (len(columns) + 2) + "|"]
        for way, row in rows.items():
            cells = [way, *(format(row[key], spec) for _, key, spec in columns), meaning[way]]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def versions() -> str:
    """Libraries and machine, for a page's facts."""
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()} CPU"
    )


def write(folder: Path, name: str, results: Mapping[str, Rows], text: str) -> None:
    """Keep the numbers as JSON and the tables as Markdown, and print the tables."""
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(text)
