"""LLaVA's prompt and the way its patches lie on the picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import flowcut
from flowcut.families import FAMILIES
from flowcut.families.family import Family
from flowcut.families.llava import Llava
from flowcut.published import MODEL_TYPES, PUBLISHED
from flowcut.records.mask_picture import HEAT, heat_picture, mask_picture, patch_at_each_pixel
from tests import tiny

LIST_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
TEXT_TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}<|assistant|>"
DEAF_TEMPLATE = "{% for m in messages if m['role'] == 'user' %}{{ m['content'][1]['text'] }}<image>{% endfor %}"
STRICT_TEMPLATE = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}<image>"


def test_a_processor_without_a_template_gets_the_familys_prompt() -> None:
    assert Llava().prompt(tiny.processor(), "Who?", None) == "USER: <image>\nWho? ASSISTANT:"
    assert Llava().prompt(tiny.processor(), "Who?", "Be brief.") == "Be brief. USER: <image>\nWho? ASSISTANT:"


def test_the_processors_own_template_comes_first() -> None:
    processor = tiny.processor(LIST_TEMPLATE)
    assert Llava().prompt(processor, "Who?", None) == "USER: <image>\nWho? ASSISTANT:"
    assert Llava().prompt(processor, "Who?", "Be brief.").startswith("SYSTEM: Be brief. USER: <image>")


def test_else_the_tokenizers_template() -> None:
    processor = tiny.processor()
    processor.tokenizer.chat_template = TEXT_TEMPLATE
    assert Llava().prompt(processor, "Who?", None) == "<|user|>\n<image>\nWho?<|end|>\n<|assistant|>"


@pytest.mark.parametrize(("template", "reason"), [(DEAF_TEMPLATE, "no place"), (STRICT_TEMPLATE, "no system here")])
def test_templates_that_take_no_system_prompt_say_so(template: str, reason: str) -> None:
    with pytest.raises(flowcut.InvalidQuestion, match=reason):
        Llava().prompt(tiny.processor(template), "Who?", "Be brief.")


PARTS_ONLY = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("template", [TEXT_TEMPLATE, LIST_TEMPLATE, PARTS_ONLY], ids=["text", "parts or text", "parts"])
def test_a_template_kept_on_the_tokenizer_is_the_same_after_loading(template: str, tmp_path: Path) -> None:
    """Saved beside a processor, it comes back as the processor's."""
    model, processor = tiny.llava(), tiny.processor()
    processor.tokenizer.chat_template = template
    before = Llava().prompt(processor, "Who?", None)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = flowcut.load(tmp_path)
    assert loaded.processor.chat_template == template
    prompt = Llava().prompt(loaded.processor, "Who?", None)
    assert prompt.replace("\n", "") == before.replace("\n", "")
    assert "{'type'" not in prompt
    run = flowcut.ask(loaded, tiny.picture(), "Who?", flowcut.FlowCut(tokens=9), max_new_tokens=1)
    assert run.visual_tokens == 9


def test_a_template_without_a_place_for_the_question_says_so() -> None:
    with pytest.raises(flowcut.InvalidQuestion, match="leaves the question out"):
        Llava().prompt(tiny.processor("{% for m in messages %}<image>{% endfor %}"), "Who?", None)


def place_of_a_dot(image_processor: CLIPImageProcessorPil, size: tuple[int, int], dot: tuple[int, int]) -> int:
    """The patch in which the processor really puts a white dot of the original picture."""
    image = Image.new("RGB", size)
    image.paste("white", (dot[0] - 2, dot[1] - 2, dot[0] + 3, dot[1] + 3))
    light = image_processor(image, return_tensors="np")["pixel_values"][0].sum(0)
    row, column = np.unravel_index(light.argmax(), light.shape)
    side = light.shape[1] // 14
    return int(row // 14 * side + column // 14)


@pytest.mark.parametrize("size", [(336, 336), (640, 480), (333, 901), (100, 77), (1500, 200)])
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
        {"size": {"height": 336, "width": 336}, "do_center_crop": False},
        {"size": {"shortest_edge": 300}, "crop_size": {"height": 336, "width": 336}},
    ],
    ids=["crop", "stretch", "pad"],
)
def test_patches_lie_where_the_processor_puts_them(size: tuple[int, int], settings: dict) -> None:
    image_processor = CLIPImageProcessorPil(**settings)
    geometry = Llava().geometry(image_processor, size, patch=14)
    width, height = size
    left, top, right, bottom = geometry.seen_box()
    rng = np.random.default_rng(0)
    for _ in range(6):
        patch_id = int(rng.integers(geometry.grid_rows * geometry.grid_cols))
        box = geometry.box(patch_id)
        x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
        if max(left, 4) <= x < min(right, width - 4) and max(top, 4) <= y < min(bottom, height - 4):
            found = place_of_a_dot(image_processor, size, (x, y))
            apart = np.subtract(divmod(found, geometry.grid_cols), divmod(patch_id, geometry.grid_cols))
            assert np.abs(apart).max() <= (0 if min(size) >= 336 else 1)


def test_the_mask_picture_shows_kept_cut_and_unseen() -> None:
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    geometry = Llava().geometry(image_processor, (672, 336), 14)
    image = Image.new("RGB", (672, 336), (100, 0, 0))
    shown = np.asarray(mask_picture(image, geometry, np.array([0])))
    assert shown[5, 170].tolist() == [100, 0, 0]
    assert shown[5, 190].tolist() == [216, 191, 191]
    assert (shown[:, :160] == 96).all(axis=-1).any()
    patches = patch_at_each_pixel(geometry)
    assert patches.shape == (336, 672)
    assert (patches[:, :168] == -1).all()
    assert patches[0, 168] == 0
    assert patches[335, 503] == 575


def test_the_heat_picture_is_hottest_where_the_value_is_highest() -> None:
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    geometry = Llava().geometry(image_processor, (336, 336), 14)
    image = Image.new("RGB", (336, 336), "navy")
    columns = geometry.grid_cols
    shown = np.asarray(heat_picture(image, geometry, np.array([0, 1, columns]), np.array([0.0, 0.5, 2.0]), peak=2.0))
    side = 336 // columns
    cold, warm_up_run, hot, cut = (
        shown[y * side + 5, x * side + 5].astype(int) for x, y in ((0, 0), (1, 0), (0, 1), (3, 3))
    )
    assert len(set(cold.tolist())) == 1  # grey
    assert cold[0] < warm_up_run[0] < hot[0]
    assert np.abs(hot - np.array(HEAT)).max() < 40
    assert (cut > cold).all()
    nothing = np.asarray(heat_picture(image, geometry, np.array([0]), np.array([0.0]), peak=0.0))
    assert (nothing[5, 5] == cold).all()


def test_published_ids_are_those_of_the_readme_family_by_family() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in readme.splitlines() if line.startswith("|") and "/" in line]
    named = [re.findall(r"`([\w.-]+/[\w.-]+)`", line[2]) for line in lines]
    assert sorted(name for names in named for name in names) == sorted(MODEL_TYPES)
    for model_type, family in FAMILIES.items():
        assert family.published == PUBLISHED[model_type]
        assert any(set(family.published) <= set(names) for names in named), family.name


def test_a_family_that_lacks_a_part_cannot_be_made() -> None:
    class Unfinished(Family):
        name = "Unfinished"

    with pytest.raises(TypeError, match="encode"):
        Unfinished()  # type: ignore[abstract]
