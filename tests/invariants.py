"""What holds for every family, whatever its tower and its media: the properties that the families' tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.cut import CutConfig
from flowcut.families import family_of
from flowcut.generation.session import Session
from flowcut.records.vision import Geometry
from tests.encoder.test_vision import state_of

Generate = Callable[..., Any]
"""`generate` below with what a family's model must not say filled in."""


def generate(model: Any, inputs: Any, placeholders: Sequence[int], tokens: int, **options: Any) -> Any:
    """Stock generation that does not end early, its new ids as `new`; a placeholder would want another picture."""
    wanted = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    wanted["suppress_tokens"] = list(placeholders)
    out = model.generate(**inputs, **wanted, return_dict_in_generate=True, output_logits=True)
    out.new = out.sequences[:, inputs["input_ids"].shape[1] :]
    return out


def ranked(evidence: Evidence, cut: CutConfig) -> np.ndarray:
    """float64 [B, N], what a method that looks once ranks the patches by."""
    rank = METHODS[cut.method].rank
    assert rank is not None
    return rank(evidence, cut)


@contextmanager
def counted_at_decoder_input(model: Any) -> Iterator[list[int]]:
    """While inside, how many tokens the language model receives in each pass."""
    seen: list[int] = []
    hook = (
        family_of(model.config)
        .language_model(model)
        .register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
    )
    try:
        yield seen
    finally:
        hook.remove()


def check_keeping_all(model: Any, inputs: Any, cut: Any, generate: Generate, **options: Any) -> Session:
    """A context that cuts nothing leaves logits and answer as they are, to the bit, and nothing on the model."""
    stock = generate(model, inputs, **options)
    before = state_of(model)
    with torch.no_grad():
        logits = model(**inputs).logits
    with flowcut.prune(model, cut) as session, torch.no_grad():
        assert torch.equal(model(**session.prepare(inputs)).logits, logits)
        ours = generate(model, session.prepare(inputs), **options)
    assert torch.equal(ours.new, stock.new)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, stock.logits, strict=True))
    assert state_of(model) == before
    return session


def all_at_once(prepared: Any, sequences: torch.Tensor) -> Any:
    """Prompt and answer as the input of one pass, where tokens count their own positions."""
    return {**prepared, "input_ids": sequences, "attention_mask": torch.ones_like(sequences)}


def check_decoding(
    model: Any, inputs: Any, cut: Any, generate: Generate, all_at_once: Any = all_at_once, near: float = 1e-5
) -> None:
    """Decoding after the cut equals one pass over prompt and answer, greedy and with beams."""
    with flowcut.prune(model, cut) as session:

        def continued(out: Any) -> torch.Tensor:
            with torch.no_grad():
                logits = model(**all_at_once(session.prepare(inputs), out.sequences)).logits
            return logits[:, -out.new.shape[1] - 1 : -1]

        out = generate(model, session.prepare(inputs))
        torch.testing.assert_close(continued(out), torch.stack(out.logits, 1), atol=near, rtol=near)
        beams = generate(model, session.prepare(inputs), num_beams=3, output_scores=True)
        mean = continued(beams).log_softmax(-1).gather(2, beams.new[..., None]).mean()
        torch.testing.assert_close(mean[None], beams.sequences_scores, atol=near, rtol=near)


def check_padded_batch(model: Any, together: Any, alone: Sequence[Any], cut: Any) -> None:
    """Prompts padded to one length read as each does by itself."""
    with flowcut.prune(model, cut) as session, torch.no_grad():
        together = session.prepare(together)
        logits = model(**together).logits
        for row, inputs in enumerate(alone):
            prepared = session.prepare(inputs)
            live = together["attention_mask"][row].bool()
            assert torch.equal(together["input_ids"][row][live], prepared["input_ids"][0])
            torch.testing.assert_close(logits[row][live], model(**prepared).logits[0], atol=1e-4, rtol=1e-4)


def paint_of(rng: np.random.Generator, size: tuple[int, int], part: int = 4) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a rectangle in a picture of (width, height), a `part`-th of each side at most."""
    width, height = size
    left, top = int(rng.integers(width)), int(rng.integers(height))
    return left, top, min(left + max(width // part, 1), width), min(top + max(height // part, 1), height)


def check_paint(
    geometry: Geometry, changed: np.ndarray, paint: tuple[int, int, int, int], between: float = 0.0
) -> None:
    """bool [N]: the patches that changed are those whose boxes the paint, or its blur, reaches.

    Args:
        between: side of a pixel, px of the original, of a smaller picture that the processor makes on its way.
    """
    boxes = geometry.boxes()
    size = np.array([geometry.original_width, geometry.original_height])
    scale = size / [geometry.resized_width, geometry.resized_height]

    def overlaps(grow: np.ndarray) -> np.ndarray:
        across = (boxes[:, 0] < paint[2] + grow[0]) & (boxes[:, 2] > paint[0] - grow[0])
        reached: np.ndarray = across & (boxes[:, 1] < paint[3] + grow[1]) & (boxes[:, 3] > paint[1] - grow[1])
        return reached

    assert (changed <= overlaps(2 * np.maximum(scale, 1) + between + 1e-6)).all()
    assert (overlaps(-scale - between) <= changed).all()  # a patch that the paint covers by a pixel and more
