"""A cut that was asked for is made, in whatever thread the model runs, or one sentence says why it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TextIteratorStreamer, pipeline

import flowcut
from flowcut.criteria import METHODS
from tests import tiny, tiny_qwen, tiny_qwen3, tiny_video
from tests.encoder.test_vision import state_of

SECONDS = 60
DECODER = [name for name, method in METHODS.items() if method.decoder is not None]
IN_LANGUAGE = [
    ("next", "flowcut"),
    ("Qwen3VL", "flowcut"),
    ("Qwen3VL", "fastv"),
    *((kind, name) for kind in ("llava", "next") for name in DECODER),
]
"""Models and methods that cut inside the language model."""


class Subject:
    """A tiny model, and prompts for it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        if kind in tiny_video.KINDS:
            self.model, self.processor = tiny_video.model(kind), tiny_video.processor(kind)
        elif kind in tiny_qwen.KINDS:
            self.model, self.processor = tiny_qwen.model(kind), tiny_qwen.processor(kind)
        elif kind in tiny_qwen3.KINDS:
            self.model, self.processor = tiny_qwen3.model(kind), tiny_qwen3.processor(kind)
        else:
            self.model = tiny.llava() if kind == "llava" else tiny.llava_next()
            self.processor = tiny.processor() if kind == "llava" else tiny.next_processor()

    def inputs(self, seed: int = 0, words: str = "what is it?") -> Any:
        text = self.processor.image_token + words
        size = (250, 140) if self.kind in tiny_qwen3.KINDS else (60, 52)  # more tokens than any budget here
        return self.processor(images=[tiny.picture(seed, size)], text=[text], return_tensors="pt")

    def generate(self, prepared: Any, **options: Any) -> Any:
        return self.model.generate(
            **prepared, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True, **options,
        )  # fmt: skip


def cut_of(method: str) -> Any:
    return flowcut.FlowCut(tokens=10) if method == "flowcut" else flowcut.Cut(method, tokens=10)


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises in a thread of its own, which inherits nothing."""
    box: dict[str, Any] = {}

    def run() -> None:
        try:
            box["result"] = work()
        except Exception as error:
            box["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SECONDS)
    if "error" in box:
        raise box["error"]
    return box["result"]


def lengths(out: Any) -> list[int]:
    """Keys in the cache of each decoder layer."""
    return [layer.keys.shape[2] for layer in out.past_key_values.layers]


@pytest.mark.parametrize(("kind", "method"), IN_LANGUAGE)
def test_generate_in_a_thread_is_cut_as_in_this_one(kind: str, method: str) -> None:
    subject = Subject(kind)
    subject.generate(subject.inputs())  # transformers puts hooks of its own on at the first run
    before = state_of(subject.model)
    with flowcut.prune(subject.model, cut_of(method)) as session:
        here = subject.generate(session.prepare(subject.inputs()))
        kept, patches = session.language_record.kept_visual_ids, session.final_patch_ids
        prepared = session.prepare(subject.inputs())
        there = in_thread(lambda: subject.generate(prepared))
        np.testing.assert_array_equal(session.language_record.kept_visual_ids, kept)
        np.testing.assert_array_equal(session.final_patch_ids, patches)
        beams = in_thread(lambda: subject.generate(session.prepare(subject.inputs()), num_beams=3))
    assert lengths(here) == lengths(there)
    assert len(set(lengths(here))) > 1, "nothing was cut inside the language model"
    assert len(set(lengths(beams))) > 1
    assert all(torch.equal(a, b) for a, b in zip(here.logits, there.logits, strict=True))
    assert state_of(subject.model) == before


def test_an_answer_that_is_streamed() -> None:
    subject = Subject("next")
    tokenizer = subject.processor.tokenizer
    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        wanted = subject.generate(session.prepare(subject.inputs())).sequences[0]
        prepared = session.prepare(subject.inputs())
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=SECONDS)
        options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        thread = threading.Thread(target=subject.model.generate, kwargs={**prepared, **options, "streamer": streamer})
        thread.start()
        text = "".join(streamer)
        thread.join(SECONDS)
        assert session.language_record is not None
    assert text == tokenizer.decode(wanted[prepared["input_ids"].shape[1] :])


@pytest.mark.parametrize(("kind", "method"), [("llava", "flowcut"), *IN_LANGUAGE])
def test_many_threads_share_one_session(kind: str, method: str) -> None:
    """A web server's pool: each request is prepared and answered in its thread, and is what it is alone."""
    subject = Subject(kind)
    cut = cut_of(method)
    prompts = [(seed, "what is it?" + " and more words" * seed) for seed in range(6)]

    def answer(session: Any, prompt: tuple[int, str]) -> torch.Tensor:
        return torch.stack(subject.generate(session.prepare(subject.inputs(*prompt))).logits)

    alone = []
    for prompt in prompts:
        with flowcut.prune(subject.model, cut) as session:
            alone.append(answer(session, prompt))
    with flowcut.prune(subject.model, cut) as session, ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: answer(session, prompt), prompts))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["llava", "next", *tiny_qwen.KINDS, *tiny_video.KINDS])
def test_prepared_in_a_thread(kind: str) -> None:
    subject = Subject(kind)
    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        here = session.prepare(subject.inputs())
        kept = session.record.kept_patch_ids
        there = in_thread(lambda: session.prepare(subject.inputs()))
        assert torch.equal(here["input_ids"], there["input_ids"])
        np.testing.assert_array_equal(session.record.kept_patch_ids, kept)
        features = [prepared["mm_encoder_outputs"]["image"].pooler_output for prepared in (here, there)]
        assert all(torch.equal(a, b) for a, b in zip(*features, strict=True))
    with pytest.raises(flowcut.FlowCutError, match="call it there"):
        in_thread(lambda: session.prepare(subject.inputs()))


@pytest.mark.parametrize("kind", ["llava", "next", *tiny_qwen.KINDS, *tiny_video.KINDS])
@pytest.mark.parametrize("thread", [False, True], ids=["here", "in a thread"])
def test_pictures_that_were_not_prepared_are_refused(kind: str, thread: bool) -> None:
    subject = Subject(kind)
    methods = ["flowcut", "random", *(DECODER if kind in ("llava", "next") else [])]
    methods += ["divprune"] if kind == "llava" else []
    run = in_thread if thread else (lambda work: work())
    stock = subject.generate(subject.inputs()).sequences
    before = state_of(subject.model)
    for method in methods:
        with flowcut.prune(subject.model, cut_of(method)) as session:
            for work in (
                lambda: subject.generate(subject.inputs()),
                lambda: subject.model(**subject.inputs()),
            ):
                with pytest.raises(flowcut.FlowCutError, match=r"inputs = session\.prepare\(processor"):
                    run(work)
            run(lambda: subject.generate(session.prepare(subject.inputs())))  # and the model is none the worse for it
    assert torch.equal(subject.generate(subject.inputs()).sequences, stock)
    assert state_of(subject.model) == before


def test_videos_that_were_not_prepared_are_refused() -> None:
    subject = Subject("VideoLlava")
    inputs = subject.processor(videos=[tiny_video.clip()], text=["<video>what?"], return_tensors="pt")
    with flowcut.prune(subject.model, flowcut.FlowCut(tokens=9)):
        with pytest.raises(flowcut.FlowCutError, match="were not prepared"):
            subject.generate(inputs)
        with pytest.raises(flowcut.FlowCutError, match="were not prepared"):
            in_thread(lambda: subject.model(**inputs))


def test_the_stock_pipeline_is_refused_and_works_again_afterwards() -> None:
    subject = Subject("llava")
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    stock = pipeline("image-text-to-text", model=subject.model, processor=subject.processor, device="cpu")
    asked = {"images": tiny.picture(), "text": "<image>what is it?", "generate_kwargs": options}
    answer = stock(**asked)
    with (
        flowcut.prune(subject.model, cut_of("flowcut")),
        pytest.raises(flowcut.FlowCutError, match="which a transformers pipeline does not do"),
    ):
        stock(**asked)
    assert stock(**asked) == answer


@pytest.mark.parametrize(("kind", "method"), IN_LANGUAGE)
def test_after_the_with_nothing_goes_uncut(kind: str, method: str) -> None:
    subject = Subject(kind)
    with flowcut.prune(subject.model, cut_of(method)) as session:
        prepared = session.prepare(subject.inputs())
    for work in (lambda: subject.generate(prepared), lambda: subject.model(**prepared)):
        with pytest.raises(flowcut.FlowCutError, match="the with was left: use them inside it"):
            work()
        with pytest.raises(flowcut.FlowCutError, match="the with was left: use them inside it"):
            in_thread(work)
    del session
    with pytest.raises(flowcut.FlowCutError, match="the with was left: use them inside it"):
        subject.generate(prepared)


def test_after_the_with_what_was_cut_in_the_encoder_stays_cut() -> None:
    subject = Subject("llava")
    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        prepared = session.prepare(subject.inputs())
        inside = subject.generate(prepared)
    after = subject.generate(prepared)
    assert torch.equal(inside.sequences, after.sequences)
    with (
        flowcut.prune(subject.model, cut_of("random")),
        pytest.raises(flowcut.FlowCutError, match="prepared in another with, which was left: prepare them in this one"),
    ):
        subject.generate(prepared)


@pytest.mark.parametrize(("kind", "method"), IN_LANGUAGE)
def test_what_was_prepared_first_may_be_answered_last(kind: str, method: str) -> None:
    """Every prompt is cut where its own visual tokens are, not where those of the last one were."""
    subject = Subject(kind)
    asked = [(0, "what?"), (1, "a good deal more words than before: what is it?")]
    with flowcut.prune(subject.model, cut_of(method)) as session:
        alone, records = [], []
        for seed, words in asked:
            alone.append(subject.generate(session.prepare(subject.inputs(seed, words))).logits)
            records.append(session.language_record)
        both = [session.prepare(subject.inputs(seed, words)) for seed, words in asked]
        for place in (0, 1, 0):
            logits = subject.generate(both[place]).logits
            assert all(torch.equal(a, b) for a, b in zip(logits, alone[place], strict=True))
            told = session.language_record
            np.testing.assert_array_equal(told.kept_visual_ids, records[place].kept_visual_ids)
            np.testing.assert_array_equal(told.sources, records[place].sources)
            assert (session.final_patch_ids is None) == (place == 0), "it speaks of what was prepared last"


@pytest.mark.parametrize(("kind", "method"), IN_LANGUAGE)
def test_a_prompt_without_pictures_is_left_alone(kind: str, method: str) -> None:
    subject = Subject(kind)
    words = subject.processor(text=["many words and no picture " * 20], return_tensors="pt")
    stock = subject.generate(words)
    with flowcut.prune(subject.model, cut_of(method)) as session:
        subject.generate(session.prepare(subject.inputs()))
        for work in (lambda: subject.generate(words), lambda: subject.generate(session.prepare(words))):
            for out in (work(), in_thread(work)):
                assert torch.equal(out.sequences, stock.sequences)
                assert len(set(lengths(out))) == 1


@pytest.mark.parametrize(("kind", "method"), IN_LANGUAGE)
def test_nobody_goes_on_with_a_cut_cache_outside(kind: str, method: str) -> None:
    subject = Subject(kind)
    with flowcut.prune(subject.model, cut_of(method)) as session, torch.no_grad():
        cache = subject.model(**session.prepare(subject.inputs()), use_cache=True).past_key_values
        token = torch.tensor([[7]])
        grown = subject.model(input_ids=token, past_key_values=cache).past_key_values
        in_thread(lambda: subject.model(input_ids=token, past_key_values=cache))
        assert grown is cache
    with pytest.raises(flowcut.FlowCutError, match="go on decoding inside the with"), torch.no_grad():
        subject.model(input_ids=token, past_key_values=cache)
    assert len({layer.keys.shape[2] for layer in cache.layers}) > 1, "it can still be looked at"


def test_an_answer_still_being_written_when_the_with_is_left_ends_in_a_sentence() -> None:
    subject = Subject("next")
    ends: list[str] = []
    begun, left = threading.Event(), threading.Event()

    class Wait(TextIteratorStreamer):
        def put(self, value: torch.Tensor) -> None:
            begun.set()
            left.wait(SECONDS)

    def work() -> None:
        try:
            subject.generate(prepared, streamer=Wait(subject.processor.tokenizer))
        except flowcut.FlowCutError as error:
            ends.append(str(error))

    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        prepared = session.prepare(subject.inputs())
        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(SECONDS)  # the prompt is on its way into generate, and nothing was read of it yet
    left.set()
    thread.join(SECONDS)
    assert len(ends) == 1
    assert "the with" in ends[0]


def test_an_error_in_a_thread_leaves_the_session_usable() -> None:
    subject = Subject("next")
    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        prepared = session.prepare(subject.inputs())
        wanted = subject.generate(session.prepare(subject.inputs())).sequences
        broken = {**prepared, "attention_mask": torch.ones(1, 1, 3, 3)}
        with pytest.raises(flowcut.FlowCutError, match="ready-made attention mask"):
            in_thread(lambda: subject.model(**broken))
        assert torch.equal(in_thread(lambda: subject.generate(prepared)).sequences, wanted)
    assert not subject.model._forward_hooks
    assert not subject.model._forward_pre_hooks


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_bare_part_that_ran_in_another_thread_only_was_not_cut(part: str) -> None:
    if part == "encoder":
        model, cut = tiny.clip(), flowcut.FlowCut(tokens=9)
        recording, run = flowcut.record(model, cut), partial(model, tiny.pixels())
    else:
        model, cut = tiny.llava().model.language_model, flowcut.Cut("fastv", tokens=9)
        embeds = torch.randn(1, 40, model.config.hidden_size)
        recording = flowcut.record_language(model, (3, 20), cut)
        run = partial(model, inputs_embeds=embeds)
    before = state_of(model)
    with pytest.raises(flowcut.FlowCutError, match="ran only in a thread that did not enter the with"), recording:
        in_thread(run)
    with pytest.raises(ZeroDivisionError), recording:  # another error is not hidden
        in_thread(lambda: run() and 1 / 0)
    assert state_of(model) == before


def test_two_threads_may_have_a_session_each_on_one_model() -> None:
    subject = Subject("llava")
    cuts = [flowcut.FlowCut(tokens=10), flowcut.Cut("fastv", tokens=12), None]
    ready = threading.Barrier(len(cuts))

    def work(cut: Any) -> list[torch.Tensor]:
        ready.wait(SECONDS)
        found = []
        for _ in range(4):
            with flowcut.prune(subject.model, cut) as session:
                found.append(torch.stack(subject.generate(session.prepare(subject.inputs())).logits))
        return found

    alone = []
    for cut in cuts:
        with flowcut.prune(subject.model, cut) as session:
            alone.append(torch.stack(subject.generate(session.prepare(subject.inputs())).logits))
    with ThreadPoolExecutor(len(cuts)) as pool:
        for expected, found in zip(alone, pool.map(work, cuts), strict=True):
            for logits in found:
                torch.testing.assert_close(logits, expected, atol=0, rtol=0)


def test_words_in_another_thread_are_no_reason_to_complain() -> None:
    """A session whose owner only prepares, while somebody else asks the model something without a picture."""
    subject = Subject("next")
    words = subject.processor(text=["no picture"], return_tensors="pt")
    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        session.prepare(subject.inputs())
        in_thread(lambda: subject.generate(words))


def test_a_prompt_that_is_read_in_pieces_stays_cut() -> None:
    subject = Subject("llava")
    with flowcut.prune(subject.model, cut_of("flowcut")) as session:
        whole = subject.generate(session.prepare(subject.inputs()))
        pieces = subject.generate(session.prepare(subject.inputs()), prefill_chunk_size=7)
    assert torch.equal(whole.sequences, pieces.sequences)
    assert lengths(whole) == lengths(pieces)
