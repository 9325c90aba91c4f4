"""Frozen results and their files: numpy and safetensors, no torch."""
