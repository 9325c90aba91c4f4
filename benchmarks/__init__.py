"""What was measured and how to measure it again; results lie beside the scripts as JSON and Markdown."""

from flowcut.media.torchvision_ops import watch_for_torchvision

watch_for_torchvision()  # before any module here brings in transformers
