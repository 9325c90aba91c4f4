"""The drawn world: the same picture for the same seed, masks that fit it, questions whose answers are true."""

import numpy as np
import pytest

from flowcut_lens import scenes
from flowcut_lens.scenes.askable import GENERATORS
from flowcut_lens.scenes.render import PAINT
from flowcut_lens.scenes.shapes import SIGNED_DISTANCE
from flowcut_lens.scenes.world import PLACE_MARGIN, SIDE

SEEDS = range(20)


@pytest.fixture(scope="module")
def drawn():
    return [scenes.draw(seed) for seed in SEEDS]


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
    """The median colour of an object's pixels is nearest to the paint it is said to have (cards carry ink)."""
    names = list(PAINT)
    paints = np.array([PAINT[name] for name in names])
    chroma = paints / paints.sum(axis=1, keepdims=True)
    right = total = 0
    for scene in drawn:
        pixels = np.asarray(scene.image, float) / 255
        for thing in scene.objects:
            if thing.shape != "card":
                median = np.median(pixels[thing.mask], axis=0)
                nearest = names[int(np.argmin(((median / median.sum() - chroma) ** 2).sum(axis=1)))]
                right, total = right + (nearest == thing.colour), total + 1
    assert right == total > 30


def test_places_are_never_a_matter_of_opinion(drawn):
    for scene in drawn:
        for thing in scene.objects:
            gaps = [abs(value - SIDE * third / 3) for value in (thing.centre_x, thing.centre_y) for third in (1, 2)]
            assert min(gaps) >= PLACE_MARGIN


def test_cards_alone_carry_characters(drawn):
    for scene in drawn:
        for thing in scene.objects:
            assert (thing.character in scenes.CHARACTERS) == (thing.shape == "card")


def test_object_patches_match_the_masks(drawn):
    scene = drawn[0]
    union = np.any([thing.mask for thing in scene.objects], axis=0)
    shows = scene.object_patches().reshape(24, 24)
    for row, col in ((0, 0), (5, 7), (12, 12), (23, 23)):
        assert shows[row, col] == union[row * 14 : row * 14 + 14, col * 14 : col * 14 + 14].any()


@pytest.mark.parametrize("shape", scenes.SHAPES)
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
    return {i for i, t in enumerate(objects) if all(forms & {t.size, t.colour, t.shape} for forms in either)}


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
            there = any(all(w in (t.colour, t.shape, "thing") for w in words) for t in scene.objects)
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
            meant = [t for t in scene.objects if all(w in (t.size, t.colour, t.shape, "thing") for w in words)]
            assert len(meant) == 1
            assert meant[0].place == fact.answer


def test_description_facts_are_counted(drawn):
    for scene in drawn:
        stated = scenes.facts(scenes.describe(scene.objects))
        cards = sum(thing.shape == "card" for thing in scene.objects)
        assert stated.total() == 3 * len(scene.objects) + cards
    assert scenes.facts("nothing to be seen here").total() == 0


def test_questions_are_the_same_for_the_same_seed(drawn):
    assert scenes.questions(drawn[2], seed=5) == scenes.questions(drawn[2], seed=5)
    assert len(scenes.questions(drawn[2], seed=5, n=3)) == 3
