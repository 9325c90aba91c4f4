"""The attention function under our own name, and the probes that look inside it."""

from flowcut.media.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before transformers looks for torchvision
