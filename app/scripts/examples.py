"""Make the stored answers of the first screen again, from the embedded model: `make examples`."""

from __future__ import annotations

import shutil
from dataclasses import replace

import flowcut
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.run import Times
from flowcut.records.store import save_run
from flowcut_lens.app.jobs.models import EMBEDDED, warm_up_run
from flowcut_lens.app.jobs.orders import ARMS
from flowcut_lens.app.media import gallery

TOKENS = 64
TIMED = 5
"""Runs of each question whose times are put together as medians."""


def main() -> None:
    """Answer the question of every gallery scene that is marked `stored`, and keep the runs in assets/examples/."""
    model = flowcut.load(EMBEDDED)
    warm_up_run(model)
    for folder in (gallery.assets_folder() / "examples").glob("scene-*"):
        shutil.rmtree(folder)
    for entry in gallery.entries():
        if entry.stored:
            make(model, entry)


def make(model: VisionLanguageModel, entry: gallery.Entry) -> None:
    """Three runs about one scene, at the settings that the page starts with."""
    image = gallery.scene(entry.seed).image
    cuts = (None, flowcut.FlowCut(tokens=TOKENS), flowcut.Cut("random", tokens=TOKENS, seed=0))
    rounds = [  # the arms in turn, so that a busy moment of the machine does not fall on one of them alone
        [flowcut.ask(model, image, entry.question, cut=cut, answer_attention=True) for cut in cuts]
        for _ in range(TIMED)
    ]
    for arm, runs in zip(ARMS, zip(*rounds, strict=True), strict=True):
        run = replace(runs[0], times=Times.median([one.times for one in runs]))
        save_run(run, image if arm == "full" else None, gallery.examples_folder(entry.seed) / arm)
        print(f"scene {entry.seed}, {run.title}: {entry.question} {run.answer}")


if __name__ == "__main__":
    main()
