"""What `flowcut compare` and `flowcut causal` share: options, model, picture, cuts and tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING

from flowcut.cut import CutConfig
from flowcut.settings import Generation
from flowcut_lens.cli.progress import Progress
from flowcut_lens.cli.warning import warn_of_photograph

if TYPE_CHECKING:
    from flowcut.media.picture import Picture
    from flowcut.models.loading import VisionLanguageModel
    from flowcut.records.run import Run

WIDEST = 56
"""Characters of a column."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    command.add_argument("image", metavar="PICTURE", help="the path or http(s) address of a picture")
    command.add_argument("question", metavar="QUESTION")
    command.add_argument("--model", default="embedded", help="embedded (default), a folder, or a hub id")
    command.add_argument("--tokens", type=int, default=64, help="visual tokens that each method keeps (default 64)")
    command.add_argument("--seed", type=int, default=0, help="seed of the random method (default 0)")
    command.add_argument("--max-new-tokens", type=int, default=128, help="longest answer, in tokens (default 128)")
    command.add_argument("--system", help="a system prompt, if the model takes one")
    command.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    command.add_argument("--quantize", choices=("8bit", "4bit"), help="the language model's weights in so few bits")
    command.add_argument("--json", action="store_true", help="write all numbers to stdout, as JSON")
    command.add_argument("--quiet", action="store_true", help="show no progress on stderr")


@dataclass(frozen=True)
class Begun:
    """What both commands work with."""

    model: VisionLanguageModel
    picture: Picture
    cuts: list[CutConfig]
    """One of every method that the model allows."""
    settings: Generation
    progress: Progress

    def answer(self, wanted: argparse.Namespace) -> Run:
        """The answer to the full picture."""
        from flowcut.generation.ask import ask

        settings, on_progress = self.settings, self.progress.report_stage
        return ask(self.model, self.picture, wanted.question, settings=settings, record=False, on_progress=on_progress)


@contextmanager
def begun(wanted: argparse.Namespace) -> Iterator[Begun]:
    """Load and open what is asked for; its progress is shown until the context ends."""
    settings = Generation(wanted.max_new_tokens, system=wanted.system)
    CutConfig("random", wanted.tokens, seed=wanted.seed)  # a wrong setting is refused before torch is loaded
    from flowcut.media.picture import open_picture

    picture = open_picture(wanted.image)
    warn_of_photograph(wanted, picture)
    with Progress(wanted.quiet) as progress:
        progress.report(None, "Loading PyTorch")
        from flowcut.models.quiet import quiet_libraries

        quiet_libraries()
        from flowcut.families.support import allowed_cuts, check_budget
        from flowcut.models.loading import load

        model = load(wanted.model, device=wanted.device, progress=progress.report, quantize=wanted.quantize)
        check_budget(model, wanted.tokens)
        yield Begun(model, picture, allowed_cuts(model, wanted.tokens, [wanted.seed]), settings, progress)


def differences(found: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """What is done in another way than in released code, a line each, from labels and sentences."""
    return [f"{label}: {sentence}" for label, sentences in found for sentence in sentences]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart; what is too wide for its column is cut short, but for the last one."""
    cells = [[*(shorten(cell, WIDEST, placeholder=" ...") for cell in row[:-1]), row[-1]] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)
