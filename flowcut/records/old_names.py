"""What fields of records were called in files of earlier versions."""

from __future__ import annotations

NAMES_OF_VERSION_2 = {
    "alive_patch_ids": "patch_ids",
    "twin_patch_id": "nearest_kept_id",
    "twin_cosine": "nearest_kept_cosine",
    "died_at_layer": "pruned_at_layer",
    "alive_before": "kept_before",
    "alive_after": "kept_after",
    "alive_before_per_image": "kept_before_per_image",
    "alive_after_per_image": "kept_after_per_image",
    "asked": "requested",
    "asked_per_image": "requested_per_image",
    "forced": "clamped",
    "part": "view",
}
"""What fields were called in files of that version."""
