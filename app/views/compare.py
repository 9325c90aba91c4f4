"""Compare: is FlowCut right here, or is it one more heat map?"""

from __future__ import annotations

from app import link, session
from app.widgets import answers, progress
from app.widgets.compare import choose_section, heading
from app.widgets.compare.subject import subject


def page() -> None:
    """The whole page, from top to bottom: what is compared, then the section that was chosen."""
    heading()
    progress.problem()
    answers.what_the_model_knows()
    progress.only_progress()
    section = choose_section()
    if (about := subject()) is not None:
        section.show(about)
    link.write(session.address())
