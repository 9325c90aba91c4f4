"""FlowCut Lens in the browser: navigation and theme. `make demo` starts it, as does `streamlit run app/main.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script: the rooms lie one folder up

from app.gallery import assets_folder
from app.views import ask

ASSETS = assets_folder()
SIDEBAR_PIXELS = 360

st.set_page_config("FlowCut Lens", ASSETS / "icon.png", layout="wide", initial_sidebar_state=SIDEBAR_PIXELS)
st.html(ASSETS / "app.css")
ASK = st.Page(ask.page, title="Ask", icon=":material/visibility:", url_path="ask", default=True)
st.navigation([ASK], position="top").run()
