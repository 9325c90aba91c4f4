"""How the embedded model was made: drawn scenes to disk, the tower, the language model, both together, evaluation."""

import flowcut  # noqa: F401  before transformers: see flowcut/torchvision_ops.py
