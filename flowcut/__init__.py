"""FlowCut Lens: run a vision-language model, see how information flows through it, prune its visual tokens.

The names below are the library. What needs torch is fetched when first used: `import flowcut` brings in neither torch
nor transformers. `flowcut.record` is the function; the types live in the module of that name and are imported with
`from flowcut.record import FlowRecord`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported here and now so that loading the module `flowcut.record` can never rebind the name of the function below.
from flowcut.record import FlowRecord, Geometry, LayerFlow, PruneStep
from flowcut.torchvision_ops import watch_for_torchvision

if TYPE_CHECKING:
    from flowcut.answer_attention import AnswerAttention
    from flowcut.criteria import methods
    from flowcut.decoding import AnswerRecording
    from flowcut.errors import (
        FlowCutError,
        InvalidCut,
        InvalidPicture,
        InvalidQuestion,
        InvalidRecord,
        ModelNotLoaded,
    )
    from flowcut.images import Picture, open_picture
    from flowcut.inputs import prune
    from flowcut.language import LanguageRecording, record_language
    from flowcut.language_record import LanguageRecord
    from flowcut.models import VisionLanguageModel, load
    from flowcut.results import AnswerToken, Flops, Run, Times
    from flowcut.run import ask
    from flowcut.schedule import Cut, CutConfig, FlowCut
    from flowcut.store import load_run, save_run
    from flowcut.videos import Video, open_video
    from flowcut.vision import Recording

__version__ = "0.1.0"

watch_for_torchvision()  # before transformers, or anyone, looks for it

_HOMES = {
    "errors": "FlowCutError InvalidCut InvalidPicture InvalidQuestion InvalidRecord ModelNotLoaded",
    "schedule": "Cut CutConfig FlowCut",
    "criteria": "methods",
    "answer_attention": "AnswerAttention",
    "decoding": "AnswerRecording",
    "results": "AnswerToken Flops Run Times",
    "store": "load_run save_run",
    "images": "Picture open_picture",
    "videos": "Video open_video",
    "vision": "Recording",
    "inputs": "prune",
    "language": "LanguageRecording record_language",
    "language_record": "LanguageRecord",
    "models": "VisionLanguageModel load",
    "run": "ask",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AnswerAttention",
    "AnswerRecording",
    "AnswerToken",
    "Cut",
    "CutConfig",
    "Flops",
    "FlowCut",
    "FlowCutError",
    "FlowRecord",
    "Geometry",
    "InvalidCut",
    "InvalidPicture",
    "InvalidQuestion",
    "InvalidRecord",
    "LanguageRecord",
    "LanguageRecording",
    "LayerFlow",
    "ModelNotLoaded",
    "Picture",
    "PruneStep",
    "Recording",
    "Run",
    "Times",
    "Video",
    "VisionLanguageModel",
    "__version__",
    "ask",
    "load",
    "load_run",
    "methods",
    "open_picture",
    "open_video",
    "prune",
    "record",
    "record_language",
    "save_run",
]


def record(
    vision_model: Any,
    cut: CutConfig | None = None,
    feature_layer: int | list[int] | None = None,
    *,
    flows: bool = True,
    matrices: bool = False,
) -> Recording:
    """Record, and with a cut also prune, inside a vision encoder: `flowcut.vision.record`, fetched when called."""
    from flowcut.vision import record as start  # brings in torch

    return start(vision_model, cut, feature_layer, flows=flows, matrices=matrices)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flowcut' has no attribute {name!r}")
    value = getattr(import_module(f"flowcut.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
