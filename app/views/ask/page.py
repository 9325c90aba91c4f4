"""Ask: what does the model see, and what may be pruned?"""

from __future__ import annotations

from flowcut_lens.app.components import heading, progress
from flowcut_lens.app.views.ask import answers, inside


def page() -> None:
    """The whole page, from top to bottom."""
    heading.heading()
    progress.problem()
    heading.what_the_model_knows()
    answers.answers_or_progress()
    inside.inside()
