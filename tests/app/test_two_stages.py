"""Two cuts one after the other on the Compare page: chosen beside the methods, asked for, shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from flowcut.criteria import METHODS
from flowcut.cut import Cut
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.views.compare import methods, two_stages
from tests.app.conftest import SECONDS, settled
from tests.app.test_compare import begin, context_of, only_compare, text


@pytest.fixture
def page() -> Iterator[AppTest]:
    test = AppTest.from_function(only_compare, default_timeout=SECONDS)
    test.query_params["section"] = "methods"
    settled(test.run())
    by_itself = runtime().studies.find(methods.plan(context_of(test)).key)
    assert by_itself is not None
    by_itself.stop.set()  # the study of all methods, which this is not about
    yield test
    assert not test.exception


def test_two_methods_are_asked_one_after_the_other(page: AppTest) -> None:
    context = context_of(page)
    half = context.tokens // 2
    assert (page.selectbox("first_of_two").value, page.selectbox("second_of_two").value) == ("visionzip", "fastv")
    page.selectbox("second_of_two").select("dart").run()
    cut = Cut("visionzip", context.tokens, then=Cut("dart", half))
    (result,) = begin(page, two_stages.plan(context, cut)).results
    assert result.run is not None
    assert len(result.run.final_patch_ids) == half
    shown = text(page.run())
    assert f"VisionZip {context.tokens} (official) + DART {half} (official)" in shown
    assert METHODS["dart"].source in shown
    assert METHODS["dart"].differs[0] in shown


def test_only_what_can_come_first_or_second_is_offered(page: AppTest) -> None:
    first, second = page.selectbox("first_of_two").options, page.selectbox("second_of_two").options
    assert {"FlowCut", "VisionZip", "HoloV", "Downsample"} <= set(first)
    assert {"FastV", "PriorTR"} <= set(second)
    assert not set(first) & {"FastV", "EVS", "VidCom2", "Chosen"}
    assert not set(second) & {"FlowCut", "VisionZip"}
