"""Recording and pruning inside the language model, with the same words as in `flowcut.encoder`."""

from flowcut.media.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before transformers looks for torchvision
