"""FlowCut Lens in the browser: navigation and theme. Started by `make demo`, `flowcut app` or `streamlit run app/main.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script: the rooms lie one folder up

from app.gallery import assets_folder
from app.pages import ask

st.set_page_config("FlowCut Lens", page_icon=":material/visibility:", layout="wide", initial_sidebar_state=356)
st.html(assets_folder() / "app.css")
st.navigation([st.Page(ask.page, title="Ask", icon=":material/visibility:", url_path="ask", default=True)], position="top").run()
