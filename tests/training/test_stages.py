"""The training stages: their shortcuts must equal the stock model, or what they teach is not what runs."""

import numpy as np
import pytest
import torch
from transformers import CLIPVisionModel, LlamaForCausalLM

from flowcut_lens import scenes
from flowcut_lens.scenes.world import BAR, CHART, WORLD
from training import cache
from training.cache import FIELD_VALUES, FORMS, N_PATCHES, PLACE, TEXTS
from training.config import VISION, text_config
from training.dropping import DROPPINGS, LEAST_SHARE
from training.half import WRITTEN_OUT
from training.initial import OFFSETS, initialise, position_table
from training.language import ORACLE_WIDTH, Understanding, answer_logits, oracle
from training.muon import Muon, orthogonalise
from training.objects import from_table
from training.packing import Packer, answer_loss
from training.text import PROMPT_END, special_ids, train_tokenizer
from training.tower import (
    CAPTION_WORDS,
    DenseHeads,
    caption_targets,
    cls_losses,
    count_targets,
    features,
    last_layer,
    last_losses,
    losses,
    patch_targets,
    stand_ins,
)


@pytest.fixture(scope="module")
def scene():
    """One with a chart, a card with small print, and others."""
    found = scenes.draw(67, WORLD)
    assert {CHART, BAR} < {thing.shape for thing in found.objects}
    assert any(thing.small_print for thing in found.objects)
    return found


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    model = CLIPVisionModel(VISION).eval()
    initialise(model)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocab_size=400, n_scenes=60)


def _batch(scene, ids, seen=1.0):
    image = torch.from_numpy(cache.to_patches(np.asarray(scene.image)))
    return {
        "patches": image[ids][None],
        "patch_ids": ids[None],
        "owner": torch.from_numpy(cache.owners(scene).astype(np.int64))[ids][None],
        "objects": torch.from_numpy(cache.object_table(scene))[None],
        "seen": torch.full((1, cache.MAX_OBJECTS), seen),
    }


def test_patchwise_embedding_equals_the_stock_tower(scene, tower):
    from transformers import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)(scene.image, return_tensors="pt")[
        "pixel_values"
    ]
    batch = _batch(scene, torch.arange(576))
    with torch.no_grad():
        stock = tower(pixels, output_hidden_states=True).hidden_states[-2]
        ours = features(tower, batch["patches"], batch["patch_ids"])
    assert torch.allclose(stock, ours, atol=2e-4)


def test_heads_start_by_looking_one_fixed_step_away(tower):
    rows = VISION.image_size // VISION.patch_size
    with torch.no_grad():
        hidden = position_table(rows, VISION.hidden_size)
        attention = tower.encoder.layers[0].self_attn
        query, key = (
            projection(hidden).unflatten(-1, (VISION.num_attention_heads, -1)).transpose(0, 1)
            for projection in (attention.q_proj, attention.k_proj)
        )
        patch = 10 * rows + 10
        looked_at = (
            query[:, patch] @ key.mT if query.ndim == 2 else torch.einsum("hd,hnd->hn", query[:, patch], key)
        ).argmax(-1)
    wanted = [patch + down * rows + right for down, right in OFFSETS[0]]
    assert looked_at.tolist() == wanted


def test_packed_questions_equal_single_conversations(tokenizer):
    """Logits of each packed segment are those of the segment alone behind the same prefix."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(text_config(len(tokenizer), special_ids(tokenizer))).eval()
    packer, image = Packer(tokenizer, 0), torch.randn(1, 9, 192)
    segments = [
        packer.segment(f"How many {noun} are there?", answer, "counting")
        for noun, answer in (("stars", "2"), ("rings", "13"))
    ]
    with torch.no_grad():
        together = packer.pack_segments([segments], 9)
        logits = answer_logits(model.model, model.lm_head, together, image)
        alone = [answer_logits(model.model, model.lm_head, packer.pack_segments([[one]], 9), image) for one in segments]
    assert torch.allclose(logits, torch.cat(alone), atol=1e-5)


def test_names_in_questions_are_found_and_mean_what_they_should(tokenizer, scene):
    packer = Packer(tokenizer, 0)
    table = torch.from_numpy(cache.object_table(scene))[None]
    thing = scene.objects[0]
    name = f"{thing.colour} {thing.shape}"
    asked = packer.segment(
        f"Is the {name} left of the purple ring?", "yes", "relation", ((name, (0,)), ("purple ring", ()))
    )
    (first, meant), (second, nothing) = asked.mentions
    assert tokenizer.decode(asked.prompt[: first + 1]).endswith(name)
    assert tokenizer.decode(asked.prompt[: second + 1]).endswith("purple ring")
    packed = packer.pack_segments([[asked]], 4, table)
    assert (meant, nothing) == ((0,), ())
    assert packed.mention_counts.tolist() == [1, 0]
    assert torch.equal(packed.mention_objects[0].nan_to_num(-9), table[0, 0].nan_to_num(-9))
    assert packed.mention_objects[1].isnan().all()
    assert packed.ids.flatten()[packed.mention_rows].tolist() == [asked.prompt[first], asked.prompt[second]]


def test_a_misspelt_name_is_held_to_nothing(tokenizer):
    asked = Packer(tokenizer, 0).segment("Where is the rde star?", "top", "position", (("red star", (0,)),))
    assert asked.mentions == ()


def test_understanding_is_zero_when_nothing_is_mentioned_and_learns_when_something_is(tokenizer, scene):
    torch.manual_seed(0)
    packer, understanding = Packer(tokenizer, 0), Understanding(192)
    table = torch.from_numpy(cache.object_table(scene))[None]
    silent = packer.pack_segments([[packer.segment("Describe the picture.", "a", "describe")]], 4, table)
    states = tuple(torch.randn(1, silent.ids.shape[1], 192) for _ in range(5))
    assert float(understanding.loss(states, silent)) == 0
    named = packer.pack_segments(
        [[packer.segment("Where is the star?", "top", "position", (("star", (0,)),))]], 4, table
    )
    states = tuple(torch.randn(1, named.ids.shape[1], 192) for _ in range(5))
    optimiser = torch.optim.Adam(understanding.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = understanding.loss(states, named)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_answers_are_marked_whole(tokenizer):
    packer = Packer(tokenizer, 0)
    segments = [packer.segment("Where is it?", "top left", "position"), packer.segment("Is it?", "no", "existence")]
    packed = packer.pack_segments([segments], 4)
    logits = torch.nn.functional.one_hot(packed.answer_ids, len(tokenizer)).float() * 20
    assert answer_loss(logits, packed).by_segment == [True, True]
    logits[0] = 0  # the first token of the first answer goes wrong: the whole answer does
    assert answer_loss(logits, packed).by_segment == [False, True]
    assert answer_loss(logits, packed).by_kind == {"position": 0.0, "existence": 1.0}


def test_tokenizer_keeps_text_and_cards_capitals(tokenizer):
    text = "a small pink card with an H at the top left"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer("What COLOUR")["input_ids"] == tokenizer("what colour")["input_ids"]
    assert tokenizer("h")["input_ids"] != tokenizer("H")["input_ids"]
    assert tokenizer.decode(tokenizer("日本 😀", add_special_tokens=False)["input_ids"]) == "日本 😀"
    assert tokenizer(PROMPT_END)["input_ids"][0] == tokenizer.bos_token_id


def test_patch_targets_tell_the_truth(scene):
    batch = _batch(scene, torch.arange(576))
    target = patch_targets(batch)
    owner = batch["owner"][0]
    for number, thing in enumerate(scene.objects):
        mine = owner == number
        assert (target["shape"][0, mine] == FORMS.index(thing.shape)).all()
        assert (target["text"][0, mine] == (TEXTS.index(thing.text) if thing.text else -100)).all()
        assert (
            target["small_print"][0, mine] == (scenes.WORDS.index(thing.small_print) if thing.small_print else -100)
        ).all()
        assert (target["colour"][0, mine] == scenes.COLOURS.index(thing.colour)).all()
        patch = int(torch.nonzero(mine)[0])
        offset_x = thing.centre_x / 14 - (patch % 24 + 0.5)
        assert float(target["geometry"][0, patch, 0]) * 3 == pytest.approx(offset_x, abs=1e-4)
    assert (target["shape"][0, owner < 0] == -100).all()
    assert int(target["centre"].sum()) == len(scene.objects)
    assert int(count_targets(batch["objects"])["total"]) == sum(thing.shape != BAR for thing in scene.objects)
    assert oracle(batch).shape == (1, 576, ORACLE_WIDTH)


def test_a_caption_names_what_is_shown_and_says_nothing_of_what_is_half_hidden(scene):
    batch = _batch(scene, torch.arange(576))
    names = [*(f"shape {one}" for one in FORMS), *scenes.COLOURS, *TEXTS]
    assert len(names) == sum(CAPTION_WORDS.values())
    wanted = {f"shape {thing.shape}" for thing in scene.objects} | {thing.colour for thing in scene.objects}
    wanted |= {text for thing in scene.objects for text in (thing.text, thing.small_print) if text}
    held, asked = caption_targets(batch)
    assert {name for name, word in zip(names, held[0].tolist(), strict=True) if word} == wanted
    assert asked.all()
    held, asked = caption_targets(_batch(scene, torch.arange(576), seen=0.3))
    assert not held.any()
    assert {name for name, word in zip(names, asked[0].tolist(), strict=True) if not word} == wanted
    held, asked = caption_targets(_batch(scene, torch.arange(576), seen=0.0))
    assert not held.any()
    assert asked.all()


@pytest.mark.parametrize("target", ["caption", "counts", "none"])
def test_what_cls_learns_reaches_the_layer_it_is_asked_at(scene, tower, target):
    """The caption trains the last layer through CLS; counts do not, and without a target nothing is asked of CLS."""
    batch, heads = _batch(scene, torch.arange(576)), DenseHeads(VISION.hidden_size)
    query = tower.encoder.layers[-1].self_attn.q_proj.weight
    hidden = features(tower, batch["patches"], batch["patch_ids"])
    last = last_layer(tower, hidden)
    parts, _ = cls_losses(target, heads, hidden, last, batch)
    assert bool(parts) == (target != "none")
    reached = [torch.autograd.grad(part, query, allow_unused=True, retain_graph=True)[0] for part in parts.values()]
    assert [one is not None for one in reached] == [target == "caption"] * len(parts)
    dense, _ = losses(heads, hidden, batch)
    assert set(last_losses(heads, last, batch)) == {f"last_{name}" for name in dense}


@pytest.mark.parametrize("name", DROPPINGS)
def test_dropping_shows_as_many_patches_as_it_says(name):
    count, choose = DROPPINGS[name]
    owner = np.full(N_PATCHES, -1, np.int8)
    owner[:30] = 0
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = count(rng)
        ids = choose(rng, wanted, owner)
        assert LEAST_SHARE * N_PATCHES - 1 <= len(ids) == wanted <= N_PATCHES
        assert (np.diff(ids) > 0).all()
        assert ids[0] >= 0
        assert ids[-1] < N_PATCHES
        assert name != "object" or set(range(30)) <= set(ids.tolist())


@pytest.mark.parametrize("name", ["uniform", "window", "grid", "none"])
def test_blind_dropping_does_not_look_at_objects(name):
    count, choose = DROPPINGS[name]
    some, other = np.full(N_PATCHES, -1, np.int8), np.zeros(N_PATCHES, np.int8)
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    assert choose(one, count(one), some).tolist() == choose(two, count(two), other).tolist()


def test_half_of_the_pictures_come_whole():
    rng = np.random.default_rng(0)
    counts = np.array([DROPPINGS["uniform"][0](rng) for _ in range(2000)])
    assert (counts == N_PATCHES).mean() == pytest.approx(0.5, abs=0.04)
    assert counts[counts < N_PATCHES].mean() == pytest.approx(0.55 * N_PATCHES, rel=0.03)


def test_attention_written_out_equals_the_fused_one(scene, tower):
    batch = _batch(scene, torch.arange(200))
    with torch.no_grad():
        fused = features(tower, batch["patches"], batch["patch_ids"])
        tower.set_attn_implementation(WRITTEN_OUT)
        written = features(tower, batch["patches"], batch["patch_ids"])
        tower.set_attn_implementation("sdpa")
    assert torch.allclose(fused, written, atol=1e-4)


def test_stand_ins_are_the_nearest_patch_of_each_object():
    owner = torch.tensor([[0, 0, -1, 1, 1, 1]])
    distance = torch.tensor([[3.0, 1.0, 0.0, 2.0, 5.0, 2.5]])
    assert stand_ins(owner, distance).tolist() == [[False, True, False, True, False, False]]


def test_table_and_objects_are_the_same(scene):
    back = from_table(cache.object_table(scene))
    assert [(t.shape, t.colour, t.size, t.text, t.small_print, t.place) for t in back] == [
        (t.shape, t.colour, t.size, t.text, t.small_print, t.place) for t in scene.objects
    ]
    place = cache.object_table(scene)[0, PLACE].tolist()
    assert place == pytest.approx([scene.objects[0].centre_x, scene.objects[0].centre_y])
    assert list(FIELD_VALUES) == list(cache.OBJECT_FIELDS)[: PLACE.start]


def test_shards_are_written_whole(tmp_path):
    cache.write_shard(tmp_path, 0, n_scenes=2, table_tops=1)
    (shard,) = cache.shards(tmp_path)
    assert shard.patches.shape == (2, 576, 588)
    assert not list(tmp_path.glob("partial-*"))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 20), (2, 20, 8)])
def test_muon_updates_are_nearly_orthogonal(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_agrees_with_the_one_of_torch():
    torch.manual_seed(0)
    start, gradient = torch.randn(12, 20), torch.randn(12, 20)
    results = []
    for kind, extra in ((Muon, {}), (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"})):
        weight = torch.nn.Parameter(start.clone())
        optimiser = kind([weight], lr=0.1, weight_decay=0.01, **extra)
        for _ in range(3):
            weight.grad = gradient.clone()
            optimiser.step()
        results.append(weight.detach())
    assert torch.allclose(*results, atol=0.02)  # torch's runs in bfloat16
