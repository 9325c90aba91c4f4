"""Objects knocked out: in the picture and in the tokens, against asking and scoring one by one."""

from __future__ import annotations

import numpy as np
import pytest

import flowcut
from flowcut.errors import FlowCutError
from flowcut.studies.scorer import AnswerScorer
from flowcut_lens.scenes import about, draw
from tests import tiny

SEED, QUESTION = 500_002, "What is written on the small yellow card?"


def test_the_object_asked_about_is_needed_and_another_is_not() -> None:
    model, scene = flowcut.load("embedded"), draw(SEED)
    (asked,) = about(scene, QUESTION) or ()
    other = next(place for place in range(len(scene.objects)) if place != asked)
    full = flowcut.ask(model, scene.image, QUESTION, record=False)
    pictures = {place: draw(SEED, without=place).image for place in (asked, other)}
    patches = {place: np.flatnonzero(scene.object_patches(object_ids=[place])) for place in (asked, other)}
    objects = {str(place): (pictures[place], patches[place]) for place in (asked, other)}
    needed, spare = flowcut.knock_out_objects(model, scene.image, QUESTION, full.token_ids, objects)
    assert (needed.name, spare.name) == (str(asked), str(other))
    assert needed.flips_without_object
    assert needed.full - needed.without_object > abs(spare.full - spare.without_object)
    for found, place in ((needed, asked), (spare, other)):
        bare = flowcut.ask(model, pictures[place], QUESTION, record=False)
        assert found.answer == bare.answer
        assert found.flips_without_object == (bare.token_ids != full.token_ids)
        scorer = AnswerScorer(model, scene.image, QUESTION, full.token_ids)
        scores = scorer.score([np.setdiff1d(np.arange(576), patches[place])], "kept")
        assert found.without_patches == pytest.approx(scores.log_odds[0], abs=1e-3)
        assert found.flips_without_patches == (not scores.exact_match[0])
        np.testing.assert_array_equal(found.patch_ids, patches[place])
        assert found.positions == "kept"


def test_what_cannot_be_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))
    picture = tiny.picture()
    with pytest.raises(FlowCutError, match="without 'a' is 30 x 30 pixels, the picture itself 60 x 52"):
        next(flowcut.knock_out_objects(model, picture, "What?", [60, 2], {"a": (tiny.picture(0, (30, 30)), [1])}))
    with pytest.raises(FlowCutError, match="patch 64"):
        next(flowcut.knock_out_objects(model, picture, "What?", [60, 2], {"a": (picture, [64])}))
    assert list(flowcut.knock_out_objects(model, picture, "What?", [60, 2], {})) == []
