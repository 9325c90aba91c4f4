"""Make the stored answers of the first screen again, from the embedded model: `make examples`."""

from __future__ import annotations

import shutil

import flowcut
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.store import save_run
from flowcut_lens.app.jobs.models import EMBEDDED, warm_up_run
from flowcut_lens.app.jobs.orders import ARMS
from flowcut_lens.app.media import gallery

TOKENS = 64


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
    for arm, cut in zip(ARMS, cuts, strict=True):
        run = flowcut.ask(model, image, entry.question, cut=cut, answer_attention=True)
        save_run(run, image if arm == "full" else None, gallery.examples_folder(entry.seed) / arm)
        print(f"scene {entry.seed}, {run.title}: {entry.question} {run.answer}")


if __name__ == "__main__":
    main()
