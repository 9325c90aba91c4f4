"""Studies of one answer: methods side by side, knock-outs, removal curves, budgets. Each is a generator.

A study yields as soon as something is done, so that partial results, progress and a stop need nothing more; the model's
lock is held while it works, never while it waits for its caller.
"""

import flowcut.hooks  # noqa: F401  # declares torchvision's operators before transformers looks for them
from flowcut._moved import names_from
from flowcut.studies.budgets import smallest_budget, sweep
from flowcut.studies.methods import compare_methods, rank_patches
from flowcut.studies.objects import knock_out_objects
from flowcut.studies.removal import deletion_insertion, knock_out
from flowcut.studies.subsets import sampled_subsets

__all__ = [
    "compare_methods",
    "deletion_insertion",
    "knock_out",
    "knock_out_objects",
    "rank_patches",
    "sampled_subsets",
    "smallest_budget",
    "sweep",
]

MOVED = ("NO_ANSWER", "SECONDS_A_SHARE", "T", "TIE_SEED", "block_of_patch", "highest_first", "in_shares")
HOMES = ("flowcut.studies.steps", "flowcut.studies.removal", "flowcut.studies.methods")
__getattr__ = names_from(__name__, *HOMES, only=MOVED)
