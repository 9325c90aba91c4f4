"""Models that are wrapped, compiled or not all in memory: refused in one sentence that names the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import flowcut
from tests import tiny


class Adapted(nn.Module):
    """A wrapper with the methods by which peft's PeftModel is known."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def get_base_model(self) -> nn.Module:
        return self.base_model

    def merge_and_unload(self) -> nn.Module:
        return self.base_model


def test_a_model_with_an_adapter_around_it() -> None:
    wrapped = Adapted(tiny.llava())
    with pytest.raises(flowcut.FlowCutError, match=r"get_base_model\(\), .* or what hf_model\.merge_and_unload\(\)"):
        flowcut.prune(wrapped)
    with pytest.raises(flowcut.FlowCutError, match=r"get_base_model"):
        flowcut.refusals(wrapped)
    with flowcut.prune(wrapped.get_base_model(), flowcut.FlowCut(tokens=9)):
        pass


def test_a_compiled_model() -> None:
    model = tiny.llava()
    compiled = torch.compile(model)
    with pytest.raises(flowcut.FlowCutError, match=r"is a OptimizedModule, compiled .* give hf_model\._orig_mod"):
        flowcut.prune(compiled)
    with flowcut.prune(compiled._orig_mod, flowcut.FlowCut(tokens=9)):
        pass


def put_compiled_decoder(model: Any) -> None:
    model.model.language_model = torch.compile(model.model.language_model)


def put_compiled_forward(model: Any) -> None:
    model.forward = torch.compile(model.forward)


def compile_in_place(model: Any) -> None:
    model.model.vision_tower.compile()


WAYS: list[tuple[Callable[[Any], None], str, Callable[[Any], None]]] = [
    (
        put_compiled_decoder,
        "'model.language_model' of this model is compiled .* put its _orig_mod in its place",
        lambda model: setattr(model.model, "language_model", model.model.language_model._orig_mod),
    ),
    (put_compiled_forward, "compiled .* delete its attribute forward", lambda model: delattr(model, "forward")),
    (
        compile_in_place,
        "'model.vision_tower' of this model is compiled .* _compiled_call_impl to None",
        lambda model: setattr(model.model.vision_tower, "_compiled_call_impl", None),
    ),
]


@pytest.mark.parametrize(("make", "sentence", "undo"), WAYS, ids=["part", "forward", "in place"])
def test_a_compiled_part(make: Callable[[Any], None], sentence: str, undo: Callable[[Any], None]) -> None:
    model = tiny.llava()
    make(model)
    for cut in (None, flowcut.FlowCut(tokens=9), flowcut.Cut("fastv", tokens=9)):
        with pytest.raises(flowcut.FlowCutError, match=sentence):
            flowcut.prune(model, cut)
    undo(model)
    inputs = tiny.processor()(images=tiny.picture(), text="USER: <image>\nhi ASSISTANT:", return_tensors="pt")
    with flowcut.prune(model, flowcut.Cut("fastv", tokens=9)) as session:
        model.generate(**session.prepare(inputs), max_new_tokens=2)
    assert session.language_record is not None


def test_bare_parts_that_are_compiled() -> None:
    tower, decoder = tiny.clip(), tiny.llava().model.language_model
    tower.encoder.layers[1].compile()
    decoder.layers[0].compile()
    with pytest.raises(flowcut.FlowCutError, match=r"'encoder\.layers\.1' of this model is compiled"):
        flowcut.record(tower)
    with pytest.raises(flowcut.FlowCutError, match=r"'layers\.0' of this model is compiled"):
        flowcut.record_language(decoder, (3, 20))


def test_weights_that_are_not_in_memory() -> None:
    """As device_map leaves what it puts on the disk, or in main memory beside a GPU."""
    model = tiny.llava()
    model.model.language_model.layers[1].to("meta")
    with pytest.raises(
        flowcut.FlowCutError, match=r"layers\.1\..* are not in memory .* load the model without device_map"
    ):
        flowcut.prune(model, flowcut.FlowCut(tokens=9))
    with pytest.raises(flowcut.FlowCutError, match="are not in memory"):
        flowcut.record_language(model.model.language_model, (3, 20))
