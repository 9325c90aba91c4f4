"""Ask: what does the model see, and what may be thrown away?"""

from __future__ import annotations

from app import link, selection, session
from app.widgets import answers, flow, progress, words


def page() -> None:
    """The whole page, from top to bottom."""
    selection.page_runs()
    answers.heading()
    progress.problem()
    answers.what_the_model_knows()
    progress.answers_or_progress()
    flow.flow()
    words.words()
    link.write(session.address())
