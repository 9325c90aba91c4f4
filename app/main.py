"""FlowCut Lens in the browser: navigation and theme. `make demo` starts it, as does `streamlit run app/main.py`."""

from __future__ import annotations

import streamlit as st

from flowcut.threads import share_processors
from flowcut_lens.app.jobs.imports import COMPARE_PAGE, import_alone
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.visitors import visitor
from flowcut_lens.app.media.gallery import assets_folder
from flowcut_lens.app.sidebar.sidebar import sidebar
from flowcut_lens.app.state import session
from flowcut_lens.app.views.ask import page as ask

share_processors()  # before torch is imported
ASSETS = assets_folder()
SIDEBAR_PIXELS = 360


def compare() -> None:
    """The Compare page. What its figures are made with takes a second to import: the first screen does not wait."""
    import_alone(COMPARE_PAGE)
    from flowcut_lens.app.views.compare.page import page

    page()


st.set_page_config("FlowCut Lens", ASSETS / "icon.png", layout="wide", initial_sidebar_state=SIDEBAR_PIXELS)
st.html(ASSETS / "app.css")
ASK = st.Page(ask.page, title="Ask", icon=":material/visibility:", url_path="ask", default=True)
COMPARE = st.Page(compare, title="Compare", icon=":material/compare:", url_path="compare")
page = st.navigation([ASK, COMPARE], position="top")
with runtime().pages.one_more():
    visitor()
    session.begin()
    session.collect()
    sidebar()
    page.run()
runtime().warm_up()  # by now the page is out
