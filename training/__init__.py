"""How the embedded model was made: drawn scenes to disk, the tower, the language model, both together, evaluation."""

from flowcut.media.torchvision_ops import watch_for_torchvision

watch_for_torchvision()  # before any module here brings in transformers
