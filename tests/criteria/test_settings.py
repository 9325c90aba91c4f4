"""A method's own settings and its variants: checked once, named in titles, kept in JSON, and what each differs in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import flowcut
from flowcut.criteria import METHODS, forget_method
from flowcut.criteria.method import TAKEN_NAMES
from flowcut.criteria.setting import Setting, read_settings
from flowcut.cut import CutConfig, all_cuts, stored_cut

WITH_VARIANTS = [name for name, one in METHODS.items() if one.has_variants and one.kind == "peer"]


def test_settings_go_by_their_names_or_in_a_mapping() -> None:
    by_name = flowcut.Cut("vispruner", tokens=64, important_share=0.75)
    assert by_name == CutConfig("vispruner", 64, settings={"important_share": 0.75})
    assert by_name.setting("important_share") == 0.75
    assert by_name.title == "VisPruner 64 (important share 0.75)"
    assert flowcut.Cut("vispruner", tokens=64).title == "VisPruner 64 (important share 0.5)"
    assert flowcut.Cut("sparsevlm", tokens=64).title == "SparseVLM 64 (no recycling)"
    assert len({by_name, flowcut.Cut("vispruner", tokens=64), CutConfig(**by_name.as_dict())}) == 2


@pytest.mark.parametrize(
    "cut",
    [
        flowcut.Cut("vispruner", tokens=9, important_share=1),
        flowcut.Cut("sparsevlm", tokens=9, recycling=True),
        flowcut.Cut("visionzip", tokens=9, variant="paper"),
    ],
)
def test_json_gives_the_same_cut_again(cut: CutConfig) -> None:
    facts = json.loads(json.dumps(cut.as_dict()))
    assert CutConfig(**facts) == stored_cut(facts) == cut
    assert facts["settings"] == dict(cut.settings)


@pytest.mark.parametrize(
    ("method", "then"),
    [
        ("vispruner", {"important_share": 0.75}),
        ("visionzip", {"variant": "paper"}),
        ("column-mean", {"variant": "paper"}),
        ("dart", {"variant": "paper"}),
        ("fastv", {}),
        ("flowcut", {}),
    ],
)
def test_a_file_of_before_there_were_settings_says_what_was_done_then(method: str, then: dict[str, Any]) -> None:
    written = {"method": method, "tokens": 9, "variant": "official", "layer": None, "seed": None, "per_image": False}
    assert stored_cut(written) == flowcut.Cut(method, tokens=9, **then)
    assert stored_cut(None) is None


def test_cuts_without_settings_say_nothing_of_them() -> None:
    """Else every stored run's id would change."""
    assert "settings" not in flowcut.FlowCut(tokens=4).as_dict()


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("vispruner", {"important_share": 1.5}, r"^important_share is 1\.5: it must be a number from 0 to 1\.$"),
        ("vispruner", {"important_share": float("nan")}, "a number from 0 to 1"),
        ("vispruner", {"important_share": True}, "a number from 0 to 1"),
        ("vispruner", {"important_share": "half"}, "a number from 0 to 1"),
        ("sparsevlm", {"recycling": "yes"}, r"^recycling is 'yes': it must be True or False\.$"),
        ("sparsevlm", {"recycling": 1}, "True or False"),
        ("vispruner", {"share": 0.5}, r"^The method 'vispruner' has no setting 'share': it has important_share\.$"),
        ("fastv", {"recycling": True}, "has no setting 'recycling': it has none of its own"),
        ("fastv", {"settings": 5}, "settings is 5: give a mapping"),
        ("fastv", {"settings": "ab"}, "settings is 'ab': give a mapping"),
        ("fastv", {"variant": "paper"}, "has no variants"),
    ],
)
def test_settings_that_cannot_be_carried_out(method: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match=sentence) as caught:
        flowcut.Cut(method, tokens=4, **settings)
    assert str(caught.value).count(". ") == 0
    assert "\n" not in str(caught.value)


def test_texts_of_a_command_line_are_read_as_what_they_say() -> None:
    share, recycling = METHODS["vispruner"].settings, METHODS["sparsevlm"].settings
    assert read_settings("vispruner", share, {"important_share": "0.25"}) == {"important_share": 0.25}
    for text, value in (("on", True), ("YES", True), ("false", False), ("off", False)):
        assert read_settings("sparsevlm", recycling, {"recycling": text}) == {"recycling": value}
    for declared, texts, sentence in (
        (share, {"important_share": "much"}, "important_share is 'much'"),
        (recycling, {"recycling": "2"}, "recycling is '2'"),
        (recycling, {"recycled": "on"}, "no setting 'recycled': it has recycling"),
    ):
        with pytest.raises(flowcut.InvalidCut, match=sentence):
            read_settings("mine", declared, texts)
    for one, value in ((share[0], 0.75), (recycling[0], True)):
        assert one.read(one.written(value)) == value


def test_a_registered_method_has_settings_too() -> None:
    def first(evidence: Any, cut: Any) -> np.ndarray:
        ranking = -np.tile(np.arange(evidence.n_patches, dtype=np.float64), (evidence.batch, 1))
        return -ranking if cut.setting("backwards") else ranking

    mine = flowcut.Method("Mine", "mine", rank=first, settings=(Setting("backwards", False, "from the end"),))
    flowcut.register_method("mine", mine)
    try:
        cuts = [flowcut.Cut("mine", tokens=2, backwards=way) for way in (False, True)]
        evidence = flowcut.Evidence(1, 5)
        assert [METHODS["mine"].select(evidence, cut).tolist() for cut in cuts] == [[[0, 1]], [[3, 4]]]
        assert [cut.title for cut in cuts] == ["Mine 2 (no backwards)", "Mine 2 (backwards)"]
        assert set(cuts) < set(all_cuts(2, every_setting=True))
    finally:
        forget_method("mine")


def test_no_setting_is_called_what_every_cut_has() -> None:
    assert set(TAKEN_NAMES) == set(CutConfig.__dataclass_fields__)
    for settings, sentence in (
        ((Setting("seed", 0.5, "mine"),), "is called 'seed'"),
        ((Setting("mine", 0.5, ""), Setting("mine", 0.5, "")), "is called 'mine'"),
        ((Setting("mine", 2.0, ""),), "mine is 2.0"),
        (Setting("mine", 0.5, ""), "give a tuple of flowcut.criteria.Setting"),
    ):
        method: Any = flowcut.Method("Mine", "mine", rank=lambda evidence, cut: np.zeros((1, 1)), settings=settings)
        with pytest.raises(flowcut.InvalidCut, match=sentence):
            flowcut.register_method("mine", method)


def test_every_setting_has_both_variants_and_both_ways_of_a_switch() -> None:
    plain, every = all_cuts(9), all_cuts(9, every_setting=True)
    assert len(plain) == len({cut.method for cut in plain})
    assert set(plain) < set(every)
    assert {cut.method for cut in every if cut.variant == "paper"} == {"flowcut", *WITH_VARIANTS}
    assert [cut.setting("recycling") for cut in every if cut.method == "sparsevlm"] == [False, True]


def test_variants_of_peers() -> None:
    assert set(WITH_VARIANTS) >= {"visionzip", "column-mean", "dart"}
    for name in ("visionzip", "column-mean", "dart"):
        official, paper = (flowcut.Cut(name, tokens=9, variant=variant) for variant in ("official", "paper"))
        assert len(paper.differs) == len(official.differs) + 1
        assert any(sentence.startswith("paper: The released") for sentence in METHODS[name].all_differences)


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (flowcut.Cut("fastv", tokens=9), "anew for every answer token"),
        (flowcut.Cut("vispruner", tokens=9), "decided by rounding"),
        (flowcut.Cut("visionzip", tokens=9, variant="paper"), "CLS token"),
        (flowcut.Cut("dart", tokens=9), "4 image pivots besides"),
        (flowcut.Cut("dart", tokens=9, variant="paper"), "order of a Python set"),
        (flowcut.Cut("column-mean", tokens=9, variant="paper"), "by index"),
        (flowcut.Cut("sparsevlm", tokens=9), "recycling"),
        (flowcut.Cut("sparsevlm", tokens=9, recycling=True), "version 1"),
    ],
    ids=str,
)
def test_what_differs_from_the_release_is_said(cut: CutConfig, said: str) -> None:
    assert any(said in sentence for sentence in cut.differs)
