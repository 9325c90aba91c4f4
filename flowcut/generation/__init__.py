"""One question from picture to answer."""

from flowcut.media.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before transformers looks for torchvision
