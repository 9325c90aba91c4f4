"""FlowCut Lens in the browser: navigation and theme. `make demo` starts it, as does `streamlit run app/main.py`."""

from __future__ import annotations

from importlib import import_module

import streamlit as st

from flowcut.threads import share_processors
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.visitors import visitor
from flowcut_lens.app.media.gallery import assets_folder
from flowcut_lens.app.sidebar.sidebar import sidebar
from flowcut_lens.app.state import session
from flowcut_lens.app.views.ask import page as ask

share_processors()  # before torch is imported
ASSETS = assets_folder()
SIDEBAR_PIXELS = 360
COMPARE_PAGE = "flowcut_lens.app.views.compare.page"


def compare() -> None:
    """The Compare page. What its figures are made with takes a second to import: the first screen does not wait."""
    from flowcut_lens.app.views.compare.page import page

    page()


st.set_page_config("FlowCut Lens", ASSETS / "icon.png", layout="wide", initial_sidebar_state=SIDEBAR_PIXELS)
st.html(ASSETS / "app.css")
ASK = st.Page(ask.page, title="Ask", icon=":material/visibility:", url_path="ask", default=True)
COMPARE = st.Page(compare, title="Compare", icon=":material/compare:", url_path="compare")
page = st.navigation([ASK, COMPARE], position="top")
if st.query_params:
    import_module(COMPARE_PAGE)  # what such an address asks for may need PyTorch: not two threads importing at once
visitor()
session.begin()
session.collect()
sidebar()
page.run()
runtime().warm_up(EMBEDDED, COMPARE_PAGE)  # by now the page is out
