"""What was measured and how to measure it again; results lie beside the scripts as JSON and Markdown."""

import flowcut  # noqa: F401  before transformers: see flowcut/torchvision_ops.py
