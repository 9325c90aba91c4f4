"""FlowCut Lens in the browser: navigation and theme. `make demo` starts it, as does `streamlit run app/main.py`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script: the rooms lie one folder up

from app import session
from app.gallery import assets_folder
from app.runtime import EMBEDDED, runtime
from app.views import ask
from app.visitors import visitor
from app.widgets.frame import sidebar

ASSETS = assets_folder()
SIDEBAR_PIXELS = 360
COMPARE_PAGE = "app.views.compare"


def compare() -> None:
    """The Compare page. What its figures are made with takes a second to import: the first screen does not wait."""
    from app.views.compare import page

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
