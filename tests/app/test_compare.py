"""The Compare page as Streamlit runs it: every section, its studies begun, stopped and found again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html import escape

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import flowcut
from flowcut.criteria import METHODS, forget_method
from flowcut.records.run import Run
from flowcut.records.studies import (
    KnockOut,
    MethodResult,
    RemovalCurves,
    SmallestBudget,
    SubsetEffects,
    SweepPoint,
)
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.media import gallery
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.views.compare import causal, causal_objects, causal_subsets, methods, proxy, sweep
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.rankings import TRUTH, Trust, rankings_of
from flowcut_lens.app.views.compare.sections import SECTIONS
from flowcut_lens.app.views.compare.study import StudySpec
from flowcut_lens.scenes import about
from tests.analysis import synthetic
from tests.analysis.test_views import ENCODERS, geometries, joined
from tests.app.conftest import SECONDS, settled, shown


def only_compare() -> None:
    """The main script with nothing but this page: AppTest cannot choose among pages that are functions."""
    from flowcut_lens.app.sidebar.sidebar import sidebar
    from flowcut_lens.app.state import session
    from flowcut_lens.app.views.compare import page

    session.begin()
    session.collect()
    sidebar()
    page.page()


@pytest.fixture
def page() -> Iterator[AppTest]:
    test = AppTest.from_function(only_compare, default_timeout=SECONDS)
    test.query_params["section"] = "depth"  # begins no study by itself
    yield settled(test.run())
    assert not test.exception


def context_of(page: AppTest) -> Context:
    last = shown(page)
    assert last.cut.cut is not None
    return Context("embedded", last.picture, last.full, last.cut.cut, last.cut)


def study(plan: StudySpec) -> Study:
    found = runtime().studies.find(plan.key)
    assert found is not None
    assert found.ended.wait(SECONDS * 2), found.phase
    assert found.error is None, found.error
    return found


def go(page: AppTest, section: str) -> AppTest:
    page.session_state["section"] = section
    return page.run()


def text(page: AppTest) -> str:
    return " ".join(
        [*(one.value for one in (*page.markdown, *page.caption)), *(one.proto.body for one in page.get("html"))]
    )


def begin(page: AppTest, plan: StudySpec) -> Study:
    page.button(f"begin-{plan.key}").click().run()
    return study(plan)


@pytest.fixture
def compared(page: AppTest) -> AppTest:
    """All methods have been asked."""
    go(page, "methods")
    study(methods.plan(context_of(page)))
    return page.run()


def test_every_section_has_a_name_and_a_question() -> None:
    assert len(SECTIONS) == 8
    assert all(section.label and section.question.endswith("?") for section in SECTIONS.values())


def test_all_methods_are_asked_and_shown(compared: AppTest) -> None:
    results = study(methods.plan(context_of(compared))).results
    asked = {result.cut.method for result in methods.answered(results)}
    refused = {result.method for result in results if isinstance(result, methods.NotAllowed)}
    choices = {name for name, method in METHODS.items() if not method.takes_patches}
    assert asked | refused == choices
    assert "cdpruner" in refused or "cdpruner" not in METHODS
    for name in asked:
        assert escape(METHODS[name].label) in text(compared)


def test_a_method_of_ones_own_is_asked_and_shown(page: AppTest) -> None:
    """With where it comes from and what it differs in; also in the sidebar's choice of methods."""
    own = flowcut.Method(
        "Last <first>", "mine: the last patches", differs=("It looks at nothing.",),
        rank=lambda evidence, cut: np.arange(evidence.n_patches)[None],
    )  # fmt: skip
    flowcut.register_method("last-first", own)
    try:
        go(page, "methods")
        results = methods.answered(study(methods.plan(context_of(page))).results)
        (result,) = [result for result in results if result.cut.method == "last-first"]
        assert result.run is not None
        assert result.run.final_patch_ids is not None
        assert result.run.final_patch_ids[0] == 576 - result.cut.tokens
        page.run()
        for said in (own.label, own.source, own.differs[0]):
            assert escape(said) in text(page)
        assert own.label in page.selectbox("method").options
    finally:
        forget_method("last-first")


def test_a_card_says_when_its_criterion_looks_behind_what_is_read(page: AppTest) -> None:
    context = context_of(page)
    for layer, behind in ((-1, True), (None, False)):
        result = MethodResult(flowcut.Cut("cls-attention", tokens=64, layer=layer), context.pruned, None, True)
        assert ("looks at vision layer 11, behind layer 10" in methods.card(context, result, 0.0)) == behind


def test_the_answers_are_measured_against_the_full_one(compared: AppTest) -> None:
    context = context_of(compared)
    for result in methods.answered(study(methods.plan(context)).results):
        assert result.run is not None
        assert result.exact_match == (result.run.token_ids == context.full.token_ids)
        assert result.logprobs is not None
        assert result.logprobs.shape == (len(context.full.token_ids),)


@pytest.mark.parametrize("section", ["agreement", "truth", "depth"])
def test_sections_of_figures(compared: AppTest, section: str) -> None:
    go(compared, section)
    figures = compared.get("plotly_chart")
    assert len(figures) >= 2
    assert "How to read this." in " ".join(caption.value for caption in compared.caption)


VERDICTS = ("holds", "half holds", "does not hold")


def claims(page: AppTest) -> list[str]:
    return [one.proto.body for one in page.get("html") if 'data-testid="claim"' in one.proto.body]


def test_findings_stand_beside_their_curves_with_number_and_rule(compared: AppTest) -> None:
    found = claims(go(compared, "depth")) + claims(go(compared, "agreement"))
    for figure, said in zip(("F2", "F3", "F3", "F6", "F4"), found, strict=True):
        assert f"The paper ({figure}):" in said
        assert any(f">{verdict}</span>" in said for verdict in VERDICTS)
        assert "Half holds: " in said


def with_head_norms(page: AppTest, factor: float | None) -> None:
    """The last answers as if the norms of single heads had been recorded, or had not."""

    def recorded(run: Run) -> Run:
        assert run.record is not None
        norms = [None if factor is None else factor * layer.value_norm for layer in run.record.layers]
        pairs = zip(run.record.layers, norms, strict=True)
        layers = tuple(replace(layer, head_value_norm=norm) for layer, norm in pairs)
        return replace(run, record=replace(run.record, layers=layers))

    last = shown(page)
    page.session_state.comparison = replace(last, full=recorded(last.full), cut=recorded(last.cut))


def test_both_value_norms_can_be_shown_where_both_were_recorded(page: AppTest) -> None:
    with_head_norms(page, None)
    page.run()
    assert "recorded without those of single heads" in text(page)
    with_head_norms(page, 3.0)
    page.run()
    assert "alike by 1.00 (layer 0)" in text(page)
    curve = drawn(page, "Information density, of the head-averaged value")
    page.segmented_control("value-norm").set_value("per head").run()
    per_head = drawn(page, "Information density, of each head's own value, mean over heads")
    np.testing.assert_allclose(per_head, 3 * np.array(curve))


def drawn(page: AppTest, title: str) -> list[float]:
    """The first curve of the figure with this title."""
    figures = [json.loads(one.proto.spec) for one in page.get("plotly_chart")]
    (figure,) = [one for one in figures if one["layout"]["title"]["text"] == title]
    return numbers(figure["data"][0]["y"])


def test_cls_as_a_proxy_begins_by_itself(page: AppTest) -> None:
    go(page, "proxy")
    record = study(proxy.plan(context_of(page))).latest
    assert all(layer.head_mean is not None for layer in record.layers)
    page.run()
    assert len(page.get("plotly_chart")) == 3


def test_the_causal_check_by_random_sets(compared: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_subsets, "MOST_SETS", 300)
    go(compared, "causal")
    compared.session_state["subset-block"] = 4
    compared.run()
    context, found = context_of(compared), methods.found(context_of(compared))
    assert found is not None
    results = begin(compared, causal_subsets.plan(context, 4, found)).results
    states = [one for one in results if isinstance(one, SubsetEffects)]
    assert states[-1].sets == 300
    assert states[-1].sizes == (4,)
    (trust,) = (one for one in results if isinstance(one, Trust))
    assert set(trust.agreements) == set(rankings_of(context, found))
    compared.run()
    titles = [json.loads(one.proto.spec)["layout"]["title"]["text"] for one in compared.get("plotly_chart")]
    assert titles == ["How far the estimate has settled", "Which ranking agrees with what blocks add?"]
    assert f"Reliability **{states[-1].reliability:.2f}**" in text(compared)
    assert "share what they add" in text(compared)
    assert "Validity: across" in text(compared) + " ".join(box.value for box in compared.warning)
    assert "positions of the full prompt" in text(compared)


def test_the_causal_check_by_objects(compared: AppTest) -> None:
    go(compared, "causal")
    compared.session_state["causal-reading"] = "objects"
    compared.run()
    context = context_of(compared)
    assert context.picture.seed is not None
    scene = gallery.scene(context.picture.seed)
    results = begin(compared, causal_objects.plan(context)).results
    assert [one.name for one in results] == [str(place) for place in range(len(scene.objects))]
    compared.run()
    asked, said = about(scene, context.full.question), text(compared)
    assert asked
    assert said.count("(asked about)") == len(asked)
    assert f"of {sum(one.flips_without_object for one in results)} needed objects" in said
    assert "(blind)" in said
    compared.session_state.comparison = type(shown(compared))(
        ChosenPicture(shown(compared).picture.source, "your picture"), *shown(compared).runs
    )
    compared.run()
    assert any("drawn again without one of its objects" in box.value for box in compared.info)


def test_the_causal_check_by_blocks(compared: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "STEPS", 3)
    go(compared, "causal")
    compared.session_state["causal-reading"] = "blocks"
    compared.session_state["knock-out-block"] = 4
    compared.run()
    found = methods.found(context_of(compared))
    assert found is not None
    results = begin(compared, causal.plan(context_of(compared), 4, found)).results
    knocked = [one for one in results if isinstance(one, KnockOut)][-1]
    assert knocked.done == 1.0
    assert np.isfinite(knocked.logprob_drop).all()
    assert knocked.full == pytest.approx(context_of(compared).full.logprob, abs=1e-3)
    rankings = rankings_of(context_of(compared), found)
    assert TRUTH in rankings, "the scene's truth covers its suggested question"
    assert {one.name for one in results if isinstance(one, RemovalCurves)} == set(rankings)
    compared.run()
    assert len(compared.get("plotly_chart")) == 4


def test_a_stopped_study_keeps_what_it_found(compared: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SHARES", (1, 1 / 9))
    few = partial(methods.cuts_at, kinds=("flowcut", "control"))  # the peers would take a minute more
    monkeypatch.setattr(sweep, "_swept", few)
    go(compared, "sweep")
    plan = sweep.plan(context_of(compared))
    compared.button(f"begin-{plan.key}").click().run()
    running = runtime().studies.find(plan.key)
    assert running is not None
    deadline = time.monotonic() + SECONDS
    while all(one.cut.method == "random" for one in running.results) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.stop.set()
    assert running.ended.wait(SECONDS)
    compared.run()
    assert any("Stopped at" in box.value for box in compared.info)
    assert all(isinstance(point, SweepPoint) for point in running.results)
    assert compared.get("plotly_chart"), "what was found before the stop is not drawn"
    found = begin(compared, plan).results
    assert any(isinstance(one, SmallestBudget) and one.done for one in found)
    compared.run()
    curves = {one["name"]: one for one in json.loads(compared.get("plotly_chart")[0].proto.spec)["data"]}
    cut = context_of(compared).cut
    measured = {
        one.cut.tokens: one.logprob
        for one in found
        if isinstance(one, SweepPoint) and replace(one.cut, tokens=cut.tokens) == cut
    }
    curve = curves[methods.short_title(cut)]
    assert set(measured) == {576, 64, 6, 4, 3, 2, 1}
    assert dict(zip(numbers(curve["x"]), numbers(curve["y"]), strict=True)) == pytest.approx(measured)


def numbers(packed: dict[str, str]) -> list[float]:
    """An array as Plotly sends it to the browser."""
    found: list[float] = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).tolist()
    return found


def test_rescue_and_drop(compared: AppTest) -> None:
    go(compared, "rescue")
    context = context_of(compared)
    assert compared.button("undo-edit").disabled
    whole, pruned = (sum(token.logprob for token in run.tokens) for run in (context.full, context.pruned))
    assert context.pruned.answer == context.full.answer
    assert f"<td>{signed(pruned - whole, plus=True)}</td>" in text(compared)
    edits = compared.session_state["mask_edits"][context.pruned.id]
    kept = context.pruned.final_patch_ids
    assert kept is not None
    cut = np.setdiff1d(np.arange(576), kept)
    edits.append([int(cut[0]), int(cut[1])])
    compared.run()
    assert "66 kept" in text(compared)
    compared.button("equal-swap").click().run()
    assert "64 kept" in text(compared)
    compared.button("ask-mask").click().run()
    (tried,) = compared.session_state["masks_tried"][context.pruned.id]
    assert len(tried) == 64
    assert {int(cut[0]), int(cut[1])} <= set(tried)
    from flowcut_lens.app.views.compare import rescue

    result = study(rescue.plan(context, tried)).latest
    assert result.run.final_patch_ids.tolist() == list(tried)
    compared.run()
    assert "64 patches: +2 −2" in text(compared)
    compared.session_state["masks_tried"].clear()  # as for a visitor who makes a mask that another has asked about
    compared.run()
    assert "64 patches: +2 −2" not in text(compared)
    compared.button("ask-mask").click().run()
    assert "64 patches: +2 −2" in text(compared)
    compared.button("undo-edit").click().run()
    assert "66 kept" in text(compared)


def test_a_picture_without_truth_is_told_so(page: AppTest) -> None:
    page.session_state.comparison = type(shown(page))(
        ChosenPicture(shown(page).picture.source, "your picture"), *shown(page).runs
    )
    go(page, "truth")
    assert any("drawn scenes only" in box.value for box in page.info)


def test_truth_of_several_tiles_is_declined_in_a_sentence(page: AppTest) -> None:
    tiles = joined([synthetic.flow_record(encoder) for encoder in ENCODERS], geometries(("base", "left", "right")))
    full = replace(shown(page).full, record=tiles)
    page.session_state.comparison = replace(shown(page), full=full)
    go(page, "truth")
    assert any("one grid of patches" in box.value for box in page.info)
    assert not page.exception


def test_an_unknown_section_in_the_address_shows_the_first() -> None:
    test = AppTest.from_function(only_compare, default_timeout=SECONDS)
    test.query_params["section"] = "<script>"
    settled(test.run())
    assert test.query_params["section"] == "methods"
    assert not test.exception
