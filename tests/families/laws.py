"""What holds for every family with a SigLIP tower over whole pictures: a class of tests, one subclass for each kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import flowcut
from flowcut.decoder.answer_recording import AnswerRecording
from flowcut.families import family_of
from flowcut.families.support import allowed_cuts, refusals
from flowcut_lens.cli import main
from tests import invariants, tiny, tiny_gemma
from tests.encoder.test_vision import state_of

SIZES = [(100, 80), (300, 60), (45, 190), (40, 37)]
SHAPES = [(96, 96), (400, 100), (100, 1000), (9, 7), (1, 1), (333, 217), (29, 700)]
CUTS = [
    flowcut.FlowCut(tokens=7),
    flowcut.FlowCut(tokens=7, variant="paper"),
    flowcut.FlowCut(tokens=7, per_image=True),
    flowcut.Cut("stride", tokens=7),
    flowcut.Cut("cls-attention", tokens=7),
]
INSIDE = [flowcut.Cut(method, tokens=7) for method in ("fastv", "dart", "pyramiddrop", "sparsevlm")]
"""Cuts inside the language model."""
ONE, SEVERAL, PADDED = ["@ what?"], ["@ or @?"], ["@ what?", "a longer one with @ and @ in it"]

model, processor = cache(tiny_gemma.model), cache(tiny_gemma.processor)
generate = partial(invariants.generate, placeholders=[tiny_gemma.IMAGE], tokens=6)


class Laws:
    """The tests; a subclass says of which kind."""

    kind: str
    fields: ClassVar[dict[str, Any]] = {}
    """Of the configuration."""
    suffix_type = 0
    """What `token_type_ids` says of an answer's tokens."""

    @property
    def model(self) -> Any:
        return model(self.kind, **self.fields)

    @property
    def side(self) -> int:
        """Patches along a side of the tower's grid."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def asked(self, *prompts: str, first: int = 0) -> Any:
        """Prompts with `@` for each picture; pictures of unequal sizes."""
        own, seed, images = processor(self.kind), first, []
        for prompt in prompts:
            images.append([tiny.picture(s, SIZES[s % 4]) for s in range(seed, seed + prompt.count("@"))])
            seed += len(images[-1])
        texts = [prompt.replace("@", own.image_token) for prompt in prompts]
        return own(images=images, text=texts, return_tensors="pt", padding=True)

    def at_once(self, prepared: Any, sequences: torch.Tensor) -> Any:
        """Prompt and answer as the input of one pass."""
        whole = invariants.all_at_once(prepared, sequences)
        whole.pop("labels", None)
        types = prepared.get("token_type_ids")
        if types is not None:
            types = types.repeat_interleave(len(sequences) // len(types), 0)
            behind = sequences.shape[1] - types.shape[1]
            whole["token_type_ids"] = torch.nn.functional.pad(types, (0, behind), value=self.suffix_type)
        return whole

    @pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=5000)], ids=["whole", "budget above"])
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    @pytest.mark.parametrize("prompts", [ONE, PADDED], ids=["one", "padded"])
    def test_keeping_all_is_the_stock_answer_to_the_bit(self, cut: Any, options: dict, prompts: list[str]) -> None:
        session = invariants.check_keeping_all(self.model, self.asked(*prompts), cut, generate, **options)
        assert session.record.relay == "proxy"

    @pytest.mark.parametrize("prompts", [ONE, SEVERAL], ids=["one", "several"])
    @pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut.title}{'-each' * cut.per_image}")
    def test_decoding_after_the_cut_equals_a_full_prefill(self, prompts: list[str], cut: Any) -> None:
        invariants.check_decoding(self.model, self.asked(*prompts), cut, generate, self.at_once)

    @pytest.mark.parametrize("prompts", [ONE, SEVERAL], ids=["one", "several"])
    @pytest.mark.parametrize("cut", INSIDE, ids=lambda cut: cut.method)
    def test_decoding_after_a_cut_inside_the_decoder(self, prompts: list[str], cut: Any) -> None:
        invariants.check_decoding(self.model, self.asked(*prompts), cut, generate, self.at_once)

    @pytest.mark.parametrize("cut", INSIDE, ids=lambda cut: cut.method)
    def test_a_padded_batch_inside_the_decoder(self, cut: Any) -> None:
        prompts = ["@ what?", "one rather longer prompt, and then @ is?"]
        together, found = self.asked(*prompts), []
        with flowcut.prune(self.model, cut) as session:
            batch = generate(self.model, session.prepare(together))
            for row, prompt in enumerate(prompts):
                found.append(generate(self.model, session.prepare(self.asked(prompt, first=row))))
        for row, alone in enumerate(found):
            torch.testing.assert_close(batch.logits[0][row], alone.logits[0][0], atol=1e-4, rtol=1e-4)
            assert torch.equal(batch.new[row], alone.new[0])

    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
    @pytest.mark.parametrize("cut", [replace(cut, tokens=5000) for cut in INSIDE], ids=lambda cut: cut.method)
    def test_keeping_all_inside_the_decoder_is_the_stock_answer(self, cut: Any, options: dict) -> None:
        invariants.check_keeping_all(self.model, self.asked(*PADDED), cut, generate, **options)

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """While inside, the language model gives its attention weights."""
        language = self.model.model.language_model
        before = language.config._attn_implementation
        language.set_attn_implementation("eager")
        try:
            yield
        finally:
            language.set_attn_implementation(before)

    def test_the_answers_attention_is_that_of_eager(self) -> None:
        language = self.model.model.language_model
        with flowcut.prune(self.model) as session:
            prepared = session.prepare(self.asked("@ what?"))
            visual = (prepared["input_ids"][0] == tiny_gemma.IMAGE).nonzero()[:, 0]
            length = prepared["input_ids"].shape[1]
            with AnswerRecording(language, visual, length) as looks:
                written = generate(self.model, prepared)
            with self.eagerly():
                prepared = session.prepare(self.asked("@ what?"))
                out = generate(self.model, prepared, output_attentions=True)
        assert torch.equal(written.new, out.new)
        for step, layers in enumerate(out.attentions):
            for layer, matrix in enumerate(layers):
                row = matrix[0, :, -1]
                whole = torch.nn.functional.pad(row, (length + step - row.shape[1], 0)).numpy()
                np.testing.assert_allclose(looks.attention.visual[step, layer], whole[:, visual], atol=1e-5)
                np.testing.assert_allclose(
                    looks.attention.answer_text[step, layer], whole[:, length:].sum(1), atol=1e-5
                )

    def test_fastv_ranks_by_the_attention_that_eager_gives(self) -> None:
        with self.eagerly(), flowcut.prune(self.model) as session, torch.no_grad():
            prepared = session.prepare(self.asked("@ what?"))
            rows = self.model(**prepared, output_attentions=True).attentions[1][0, :, -1].mean(0)
        with flowcut.prune(self.model, INSIDE[0]) as session, torch.no_grad():
            prepared = session.prepare(self.asked("@ what?"))
            self.model(**prepared)
            visual = prepared["input_ids"][0] == tiny_gemma.IMAGE
            np.testing.assert_allclose(session.language_record.ranking[0], rows[visual].numpy(), atol=1e-5)

    def test_a_second_turn_goes_on_with_the_cache(self) -> None:
        with flowcut.prune(self.model, CUTS[0]) as session:
            prepared = session.prepare(self.asked("@ what?"))
            first = generate(self.model, prepared)
            more = torch.cat([first.sequences, torch.tensor([[40, 50, 60, 70]])], dim=1)
            turn = {"input_ids": more, "attention_mask": torch.ones_like(more)}
            second = generate(self.model, turn, past_key_values=first.past_key_values)
            with torch.no_grad():
                whole = self.model(**self.at_once(session.prepare(self.asked("@ what?")), second.sequences)).logits
        torch.testing.assert_close(whole[:, -7:-1], torch.stack(second.logits, 1), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("tokens", [1, 7, 15])
    @pytest.mark.parametrize("method", ["flowcut", "random", "stride", "cls-attention"])
    def test_the_language_model_receives_the_budget(self, tokens: int, method: str) -> None:
        inputs, cut = self.asked("@ or @?"), flowcut.Cut(method, tokens=tokens)
        seen_by = invariants.counted_at_decoder_input(self.model)
        with flowcut.prune(self.model, cut) as session, seen_by as seen, torch.no_grad():
            self.model(**session.prepare(inputs))
        assert seen == [int((inputs["input_ids"] != tiny_gemma.IMAGE).sum()) + 2 * tokens]
        for row, medium in enumerate(session.media):
            torch.testing.assert_close(medium.shares.sum(1), torch.ones(tokens))
            assert (medium.source_patches[..., 0] == row).all()
            patches = medium.source_patches[..., 1].flatten().sort().values
            np.testing.assert_array_equal(patches, session.record.image(row).kept_patch_ids[0])

    def test_positions_of_the_full_prompt(self) -> None:
        """Kept positions, decoded with the cache and in one pass."""
        cut = replace(CUTS[0], positions="kept")
        with flowcut.prune(self.model, cut) as session:
            prepared = session.prepare(self.asked("@ what?"))
            out = generate(self.model, prepared)
            whole = self.at_once(prepared, out.sequences)
            behind = prepared["position_ids"].max() + 1 + torch.arange(out.new.shape[1])
            whole["position_ids"] = torch.cat([prepared["position_ids"], behind[None]], dim=1)
            with torch.no_grad():
                logits = self.model(**{**whole, "mm_encoder_outputs": prepared["mm_encoder_outputs"]}).logits
        assert prepared["position_ids"].max() > prepared["input_ids"].shape[1]
        torch.testing.assert_close(logits[:, -7:-1], torch.stack(out.logits, 1), atol=1e-5, rtol=1e-5)

    def test_a_padded_batch_reads_as_each_alone(self) -> None:
        prompts = ["@ what?", "one rather longer prompt, and then @ is?"]
        alone = [self.asked(prompt, first=row) for row, prompt in enumerate(prompts)]
        each = flowcut.FlowCut(tokens=7, per_image=True)
        invariants.check_padded_batch(self.model, self.asked(*prompts), alone, each)

    @pytest.mark.parametrize("size", SHAPES, ids=str)
    def test_painted_patches(self, size: tuple[int, int]) -> None:
        """The patches that change are those whose boxes the paint, or its blur, reaches."""
        pictures, rng = processor(self.kind).image_processor, np.random.default_rng(0)
        (geometry,) = family_of(self.model.config).geometries(self.model, pictures, size)
        tower = family_of(self.model.config).vision_tower(self.model)
        for _ in range(3):
            paint = invariants.paint_of(rng, size)
            black, painted = (Image.new("RGB", size) for _ in range(2))
            painted.paste("white", paint)
            pixels = [pictures(images=[i], return_tensors="pt")["pixel_values"] for i in (black, painted)]
            with torch.no_grad():
                apart = tower.embeddings.patch_embedding(pixels[0]) - tower.embeddings.patch_embedding(pixels[1])
            invariants.check_paint(geometry, apart[0].abs().amax(0).flatten().numpy() > 1e-6, paint)

    def test_the_record_is_that_of_eager_attention(self) -> None:
        inputs = self.asked("@ or @?")
        tower = family_of(self.model.config).vision_tower(self.model)
        with flowcut.prune(self.model) as session:
            session.prepare(inputs)
        tower.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                found = tower(inputs["pixel_values"], output_attentions=True).attentions
        finally:
            tower.set_attn_implementation("sdpa")
        assert len(found) == session.record.n_layers
        for flow, weights in zip(session.record.layers, found, strict=True):
            np.testing.assert_allclose(flow.received_mass[:, 1:], weights.mean(1).sum(1), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(flow.top_destination_weight[:, 1:], weights.mean(1).amax(1), atol=1e-4)

    def test_the_highest_scores_are_kept(self) -> None:
        with flowcut.prune(self.model, CUTS[0]) as session:
            session.prepare(self.asked("@ what?"))
        for flow in session.record.layers:
            if flow.margin is not None:
                after = session.record.layers[flow.layer + 1].patch_ids[0]
                np.testing.assert_array_equal(flow.margin[0] >= 0, np.isin(flow.patch_ids[0], after))

    def test_nothing_is_left_after_an_exception(self) -> None:
        before = state_of(self.model)

        def fail(*_: Any) -> None:
            raise RuntimeError("in the middle of a pass")

        tower = family_of(self.model.config).vision_tower(self.model)
        for module in (tower.encoder.layers[3], self.model.model.language_model.layers[1]):
            hook = module.register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="middle"), flowcut.prune(self.model, CUTS[0]) as session:
                self.model(**session.prepare(self.asked("@ what?")))
            hook.remove()
            assert state_of(self.model) == before

    def test_methods_that_are_refused_say_why(self) -> None:
        family = family_of(self.model.config)
        refused = refusals(self.model)
        assert not {"flowcut", "random", "stride", "cls-attention"} & set(refused)
        assert all(family.name in reason or "single layer" in reason for reason in refused.values())
        for cut in allowed_cuts(self.model, 7):
            with flowcut.prune(self.model, cut) as session, torch.no_grad():
                logits = self.model(**session.prepare(self.asked("@ what?"))).logits
            assert torch.isfinite(logits).all(), cut.method

    def test_asked_from_a_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        loaded, image = flowcut.load(tiny_gemma.checkpoint(self.kind, tmp_path)), tiny.picture(0, SIZES[0])
        whole = flowcut.ask(loaded, image, "What is it?", max_new_tokens=5)
        inputs = self.as_chat(whole.prompt, image)
        stock = generate(loaded.model, inputs, max_new_tokens=5, eos_token_id=1).new[0]
        assert [token.id for token in whole.tokens] == stock.tolist()
        run = flowcut.ask(loaded, image, "What is it?", CUTS[0], max_new_tokens=5)
        assert (run.visual_tokens, run.tower_tokens) == (7, 7)
        assert run.record is not None
        assert len(run.record.geometries) == run.record.batch
        assert run.flops.total < whole.flops.total
        image.save(tmp_path / "picture.png")
        options = ["--model", str(tmp_path), "--tokens", "7", "--max-new-tokens", "5"]
        assert main.main(["ask", str(tmp_path / "picture.png"), "What is it?", *options]) == 0
        assert capsys.readouterr().out == run.answer + "\n"

    def as_chat(self, prompt: str, image: Image.Image) -> Any:
        """What the stock processor makes of a prompt that may begin with the first token."""
        begins = prompt.startswith("<bos>")
        return processor(self.kind)(images=image, text=prompt, return_tensors="pt", add_special_tokens=not begins)


class TwoWayLaws(Laws):
    """Also for families of which some tokens see each other in both directions."""

    @pytest.mark.parametrize("cut", [None, CUTS[0], *INSIDE], ids=lambda cut: cut.method if cut else "whole")
    def test_who_sees_whom_is_what_the_stock_mask_of_such_a_prompt_says(self, cut: Any) -> None:
        """In every layer: behind a cut inside the decoder, too."""
        text = self.model.config.text_config
        with self.eagerly(), flowcut.prune(self.model, cut) as session, torch.no_grad():
            prepared = session.prepare(self.asked("@ or @?"))
            seen = self.model(**prepared, output_attentions=True).attentions
        for layer, weights in enumerate(seen):
            length = weights.shape[2]
            visual = (length - int((prepared["input_ids"] != tiny_gemma.IMAGE).sum())) // 2
            short = self.with_fewer_placeholders(prepared, visual)
            mask = self.model.create_masks_for_generate(
                config=self.model.config, inputs_embeds=torch.zeros(1, length, 32), past_key_values=None,
                attention_mask=torch.ones(1, length), position_ids=None, token_type_ids=short,
            )  # fmt: skip
            kinds = getattr(text, "layer_types", None)
            mask = mask[kinds[layer]] if isinstance(mask, dict) else mask
            causal = torch.ones(length, length, dtype=torch.bool).tril()
            allowed = causal if mask is None else (mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0)
            assert torch.equal((weights[0] > 0).any(0), allowed), layer

    def with_fewer_placeholders(self, prepared: Any, visual: int) -> torch.Tensor | None:
        """`token_type_ids` of a prompt of two pictures with so many placeholders each."""
        ids, types = prepared["input_ids"][0], prepared.get("token_type_ids")
        place = (ids == tiny_gemma.IMAGE).long()
        nth = place.cumsum(0) - 1
        each = int(place.sum()) // 2
        return None if types is None else types[:, (place == 0) | (nth % each < visual)]
