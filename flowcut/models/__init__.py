"""Models by name: weights, processor, device, dtype, memory."""

from flowcut._moved import names_from
from flowcut.media.torchvision_ops import watch_for_torchvision

watch_for_torchvision()  # for when transformers looks for it; to declare its operators here would bring in torch

MOVED = (
    "ASSUMED_FREE", "DTYPES", "EMBEDDED", "EMBEDDED_VARIABLE", "HASHED_BYTES", "HUB_SECONDS", "LEAST_SHARE_OF_WEIGHTS",
    "LONGEST_NAME", "Progress", "SHARE_FOR_WEIGHTS", "VisionLanguageModel", "WANTED_FILES", "embedded_folder",
    "free_memory", "known_family", "load",
)  # fmt: skip
__getattr__ = names_from(
    __name__, "flowcut.models.loading", "flowcut.models.hub", "flowcut.models.cache", "flowcut.models.checkpoint",
    only=MOVED,
)  # fmt: skip
