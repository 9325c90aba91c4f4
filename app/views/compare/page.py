"""Compare: is FlowCut right here, or is it one more heat map?"""

from __future__ import annotations

from flowcut_lens.app.components import progress
from flowcut_lens.app.components.heading import what_the_model_knows
from flowcut_lens.app.state import session, url
from flowcut_lens.app.views.compare.context import current_context
from flowcut_lens.app.views.compare.sections import choose_section, heading


def page() -> None:
    """The whole page, from top to bottom: what is compared, then the section that was chosen."""
    heading()
    progress.problem()
    what_the_model_knows()
    progress.only_progress()
    section = choose_section()
    if (context := current_context()) is not None:
        section.show(context)
    url.write(session.address())
