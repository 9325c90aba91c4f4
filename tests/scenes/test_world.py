"""The drawn world: the same picture for the same seed, masks that fit it, questions whose answers are true."""

import numpy as np
import pytest

from flowcut_lens import scenes
from flowcut_lens.scenes.askable import GENERATORS
from flowcut_lens.scenes.paint import PAINT
from flowcut_lens.scenes.shapes import SIGNED_DISTANCE
from flowcut_lens.scenes.world import BAR, CHART, PLACE_MARGIN, SIDE, WORLD

SEEDS = range(20)
WITH_PRINT = range(60, 80)
"""Scenes of the world with words, small print and charts."""


@pytest.fixture(scope="module")
def drawn():
    return [*(scenes.draw(seed) for seed in SEEDS), *(scenes.draw(seed, WORLD) for seed in WITH_PRINT)]


def laid(scene):
    """What lies on the table: the bars of a chart are part of it."""
    return [thing for thing in scene.objects if thing.shape != BAR]


def test_same_seed_same_scene(drawn):
    again = scenes.draw(3)
    assert again == drawn[3]
    assert np.array_equal(np.asarray(again.image), np.asarray(drawn[3].image))
    assert not np.array_equal(np.asarray(again.image), np.asarray(drawn[4].image))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, None, "7"])
def test_a_wrong_seed_is_refused_in_one_sentence(seed):
    with pytest.raises(ValueError, match="seed is an integer from 0"):
        scenes.draw(seed)


def test_a_scene_without_an_object_is_the_same_elsewhere(drawn):
    """Far from it every pixel is the same, where it was none of it is left, and what it hid is seen."""
    for scene in drawn[:8]:
        for place, thing in enumerate(scene.objects):
            bare = scenes.draw(scene.seed, without=place)
            others = [*scene.objects[:place], *scene.objects[place + 1 :]]
            assert [(o.shape, o.colour, o.centre_x) for o in bare.objects] == [
                (o.shape, o.colour, o.centre_x) for o in others
            ]
            changed = (np.asarray(scene.image, int) != np.asarray(bare.image, int)).any(axis=2)
            left, top, right, bottom = thing.box
            near = np.zeros_like(changed)
            near[max(0, top - 45) : bottom + 45, max(0, left - 45) : right + 45] = True
            assert not (changed & ~near).any(), "only it and its shadow may go"
            assert changed[thing.mask].mean() > 0.95
            for now, before in zip(bare.objects, others, strict=True):
                assert (now.mask >= before.mask).all()
                assert not (now.mask & ~before.mask & ~thing.mask).any(), "what comes out was behind it"


def test_a_bar_leaves_its_chart_alone_and_a_chart_takes_its_bars_with_it(drawn):
    scene = next(scene for scene in drawn if any(thing.shape == CHART for thing in scene.objects))
    names = [(thing.shape, thing.colour, thing.centre_x) for thing in scene.objects]
    place = next(i for i, thing in enumerate(scene.objects) if thing.shape == BAR)
    bare = scenes.draw(scene.seed, WORLD, without=place)
    assert [(o.shape, o.colour, o.centre_x) for o in bare.objects] == names[:place] + names[place + 1 :]
    changed = (np.asarray(scene.image, int) != np.asarray(bare.image, int)).any(axis=2)
    bar = scene.objects[place]
    left, top, right, bottom = bar.box
    assert changed[bar.mask].mean() > 0.4
    assert changed.sum() == changed[top - 2 : bottom + 2, left - 4 : right + 4].sum()
    chart = next(i for i, thing in enumerate(scene.objects) if thing.shape == CHART)
    bare = scenes.draw(scene.seed, WORLD, without=chart)
    assert [o.shape for o in bare.objects] == [shape for shape, _, _ in names if shape not in (CHART, BAR)]


@pytest.mark.parametrize("place", [-1, 6, True, 1.0])
def test_an_object_that_is_not_there_cannot_be_left_out(place):
    with pytest.raises(ValueError, match=r"This scene has \d objects"):
        scenes.draw(3, without=place)


def test_masks_lie_where_objects_are(drawn):
    for scene in drawn:
        stacked = np.sum([thing.mask for thing in scene.objects], axis=0)
        assert stacked.max() <= 1, "a pixel belongs to one object alone"
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            assert thing.mask[top:bottom, left:right].sum() == thing.mask.sum() > 200
            assert left <= thing.centre_x <= right
            assert top <= thing.centre_y <= bottom


def test_objects_wear_their_colour(drawn):
    """The median colour of an object's pixels is nearest to the paint it is said to have.

    Cards carry ink, and bars a number.
    """
    names = list(PAINT)
    paints = np.array([PAINT[name] for name in names])
    chroma = paints / paints.sum(axis=1, keepdims=True)
    right = total = 0
    for scene in drawn:
        pixels = np.asarray(scene.image, float) / 255
        for thing in scene.objects:
            if thing.shape not in ("card", BAR):
                median = np.median(pixels[thing.mask], axis=0)
                nearest = names[int(np.argmin(((median / median.sum() - chroma) ** 2).sum(axis=1)))]
                right, total = right + (nearest == thing.colour), total + 1
    assert right == total > 30


def test_places_are_never_a_matter_of_opinion(drawn):
    for scene in drawn:
        for thing in laid(scene):
            gaps = [abs(value - SIDE * third / 3) for value in (thing.centre_x, thing.centre_y) for third in (1, 2)]
            assert min(gaps) >= PLACE_MARGIN


def test_what_is_printed_and_on_what(drawn):
    printed = {"character": 0, "word": 0, "small print": 0, "number": 0}
    for scene in drawn:
        for thing in scene.objects:
            assert (thing.text is not None) == (thing.shape in ("card", BAR))
            is_word = thing.text in scenes.WORDS
            assert not is_word or (thing.shape, thing.size) == ("card", "large")
            assert thing.shape != BAR or thing.text in tuple("123456789")
            if thing.small_print is not None:
                assert (thing.shape, thing.size, thing.text in scenes.CHARACTERS) == ("card", "large", True)
                assert thing.small_print in scenes.WORDS
            printed["word"] += is_word
            printed["character"] += thing.shape == "card" and not is_word
            printed["small print"] += thing.small_print is not None
            printed["number"] += thing.shape == BAR
    assert min(printed.values()) >= 3, printed


def test_bars_are_as_high_as_their_numbers_say(drawn):
    charts = [scene for scene in drawn if any(thing.shape == CHART for thing in scene.objects)]
    assert len(charts) > 2
    for scene in charts:
        bars = [thing for thing in scene.objects if thing.shape == BAR]
        assert scene.objects[-len(bars) :] == tuple(sorted(bars, key=lambda bar: bar.centre_x)), "they come last"
        assert len({bar.text for bar in bars}) == len({bar.colour for bar in bars}) == len(bars)
        height = {int(bar.text): bar.box[3] - bar.box[1] for bar in bars}
        steps = np.diff([height[number] for number in sorted(height)]) / np.diff(sorted(height))
        assert steps.min() > 4
        assert np.ptp(steps) < 1.5, "one step of the number, so many pixels"
        pixels = np.asarray(scene.image, float) / 255
        for bar in bars:
            column = pixels[bar.box[3] - 4, (bar.box[0] + bar.box[2]) // 2]
            assert np.argmin(
                [((column / column.sum() - np.array(paint) / sum(paint)) ** 2).sum() for paint in PAINT.values()]
            ) == list(PAINT).index(bar.colour)


def test_nothing_lies_on_a_chart(drawn):
    for scene in drawn:
        for chart in (thing for thing in scene.objects if thing.shape == CHART):
            inside = scene.object_mask([i for i, one in enumerate(scene.objects) if one.shape in (CHART, BAR)])
            left, top, right, bottom = chart.box
            assert inside[top:bottom, left:right].mean() > 0.95


def test_object_patches_match_the_masks(drawn):
    scene = drawn[0]
    union = np.any([thing.mask for thing in scene.objects], axis=0)
    shows = scene.object_patches().reshape(24, 24)
    for row, col in ((0, 0), (5, 7), (12, 12), (23, 23)):
        assert shows[row, col] == union[row * 14 : row * 14 + 14, col * 14 : col * 14 + 14].any()


@pytest.mark.parametrize("shape", [*scenes.SHAPES, CHART])
def test_distance_is_negative_inside_and_grows_outwards(shape):
    line = np.linspace(0, 3, 301, dtype=np.float32)
    for angle in np.linspace(0, 2 * np.pi, 16):
        along = SIGNED_DISTANCE[shape](line * np.float32(np.cos(angle)), line * np.float32(np.sin(angle)))
        assert along[line > 1.05].min() > 0, "nothing reaches beyond the enclosing circle"
        assert np.all(np.diff(along[line > 1.1]) > 0)
    centre = SIGNED_DISTANCE[shape](np.zeros(1, np.float32), np.zeros(1, np.float32))[0]
    assert (centre < 0) == (shape != "ring")


def test_every_kind_is_asked_and_known(drawn):
    seen = set()
    for scene in drawn:
        for question in scenes.questions(scene, seed=1):
            seen.add(question.kind)
            assert scenes.truth(scene, question.text) == question.answer, question
            assert scenes.matches(question.answer.upper() + " .", question.answer)
    assert seen == set(scenes.KINDS)


def named_by(name, objects):
    """Indices of the objects that a name in a question, singular or plural, may mean."""
    words = [word for word in name.split() if word not in ("thing", "things", "object", "objects")]
    either = [{word, "cross" if word == "crosses" else word.removesuffix("s")} for word in words]
    return {
        i
        for i, t in enumerate(objects)
        if all(forms & {t.size, t.colour, t.shape} for forms in either) and (t.shape != BAR or BAR in name)
    }


def test_a_question_is_about_the_objects_it_names(drawn):
    for scene in drawn:
        for question in scenes.questions(scene, seed=3):
            asked = scenes.about(scene, question.text)
            assert asked == tuple(sorted(set(question.object_ids)))
            for name, ids in question.mentions:
                assert named_by(name, scene.objects) == set(ids) <= set(asked), question
    assert scenes.about(drawn[0], "who painted this?") is None


COUNT_OF_OBJECTS = {
    "existence": lambda scene, question, count: (count > 0) == (question.answer == "yes"),
    "counting": lambda scene, question, count: count == int(question.answer),
    "describe": lambda scene, question, count: count == len(scene.objects),
    "relation": lambda scene, question, count: count == 2,
}


@pytest.mark.parametrize("kind", COUNT_OF_OBJECTS)
def test_a_question_is_about_as_many_objects_as_its_answer_needs(drawn, kind):
    asked = [(scene, one) for scene in drawn for one in scenes.questions(scene, seed=3) if one.kind == kind]
    assert asked
    for scene, question in asked:
        assert COUNT_OF_OBJECTS[kind](scene, question, len(scenes.about(scene, question.text))), question


def test_pixels_and_patches_of_chosen_objects(drawn):
    scene = next(scene for scene in drawn if len(scene.objects) > 2)
    first, last = scene.objects[0].mask, scene.objects[-1].mask
    chosen = (0, len(scene.objects) - 1)
    assert (scene.object_mask(chosen) == (first | last)).all()
    assert not scene.object_mask(()).any()
    shows = scene.object_patches(28, 0.25, object_ids=chosen).reshape(12, 12)
    for row, col in np.ndindex(12, 12):
        square = (first | last)[row * 28 : row * 28 + 28, col * 28 : col * 28 + 28]
        assert shows[row, col] == (square.sum() > 0.25 * 28 * 28)


def test_truth_forgives_spelling_of_colour_and_case(drawn):
    scene = next(scene for scene in drawn if len(scene.objects) == 1)
    thing = scene.objects[0]
    assert scenes.truth(scene, f"  what COLOR is the {thing.shape}") == thing.colour
    assert scenes.truth(scene, "who painted this?") is None


def test_answers_hold_in_the_scene(drawn):
    """Independent check of the simple kinds, by counting objects by hand."""
    for scene in drawn:
        for fact in GENERATORS["existence"](scene.objects):
            words = fact.words["an_a"].split()[1:]
            there = any(all(w in (t.colour, t.shape, "thing") for w in words) for t in laid(scene))
            assert fact.answer == ("yes" if there else "no")
        for fact in GENERATORS["relation"](scene.objects):
            one, other = (scene.objects[i] for i in fact.object_ids)
            word = next(
                w for w in ("left", "right", "above", "higher", "below", "lower") if w in fact.words["relation"]
            )
            sign = {"left": one.centre_x < other.centre_x, "right": one.centre_x > other.centre_x}.get(
                word, one.centre_y < other.centre_y if word in ("above", "higher") else one.centre_y > other.centre_y
            )
            assert fact.answer == ("yes" if sign else "no")


def test_names_in_questions_mean_one_object(drawn):
    for scene in drawn:
        for fact in GENERATORS["position"](scene.objects):
            words = fact.words["a"].split()
            meant = [t for t in laid(scene) if all(w in (t.size, t.colour, t.shape, "thing") for w in words)]
            assert len(meant) == 1
            assert meant[0].place == fact.answer


def test_description_facts_are_counted(drawn):
    for scene in drawn:
        stated = scenes.facts(scenes.describe(scene.objects))
        more = sum((thing.shape in ("card", CHART)) + bool(thing.small_print) for thing in laid(scene))
        assert stated.total() == 3 * len(laid(scene)) + more
    assert scenes.facts("nothing to be seen here").total() == 0


def test_questions_are_the_same_for_the_same_seed(drawn):
    assert scenes.questions(drawn[2], seed=5) == scenes.questions(drawn[2], seed=5)
    assert len(scenes.questions(drawn[2], seed=5, n=3)) == 3


def test_the_chart_says_what_its_bars_say(drawn):
    asked = [(scene, fact) for scene in drawn for fact in GENERATORS["chart"](scene.objects)]
    assert {fact.balance for _, fact in asked} == {"which", "number", "how many"}
    for scene, fact in asked:
        bars = [scene.objects[i] for i in fact.object_ids]
        assert {bar.shape for bar in bars} == {BAR}
        if fact.balance == "number":
            assert (bars[0].text, f"{bars[0].colour} bar") == (fact.answer, fact.words["a"])
        elif fact.balance == "how many":
            assert len(bars) == int(fact.answer)
        else:
            chosen = max if "highest" in fact.phrasings[0] else min
            assert chosen(bars, key=lambda bar: int(bar.text)).colour == fact.answer
