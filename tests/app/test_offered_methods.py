"""The list of methods holds what can be asked for, and nothing that is always refused."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from tests.app.conftest import MAIN, SECONDS, run


def test_methods_that_the_model_refuses_are_not_offered(page: AppTest) -> None:
    offered = page.selectbox("method").options
    assert {"FlowCut", "Random", "VisionZip", "FastV"} <= set(offered)
    assert not {"EVS", "VidCom2", "Chosen"} & set(offered), "a picture has no frames to compare"
    run(page)  # the model is in memory now
    assert "CDPruner" not in page.selectbox("method").options
    assert page.session_state.method == "flowcut"


def test_a_method_that_a_link_asks_for_stays_in_the_list() -> None:
    page = AppTest.from_file(str(MAIN), default_timeout=SECONDS)
    page.query_params["method"] = "evs"
    page.run()
    assert not page.exception
    assert "EVS" in page.selectbox("method").options
