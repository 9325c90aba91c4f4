"""Ask: what does the model see, and what may be thrown away?"""

from __future__ import annotations

from flowcut_lens.app.components import answers, progress
from flowcut_lens.app.views.ask import inside


def page() -> None:
    """The whole page, from top to bottom."""
    answers.heading()
    progress.problem()
    answers.what_the_model_knows()
    progress.answers_or_progress()
    inside.inside()
