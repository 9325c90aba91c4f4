"""What a reader of a record must know of a pass through the vision encoder, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from flowcut.criteria import METHODS
from flowcut.cut import CutConfig
from flowcut.encoder.locate import VisionEncoder
from flowcut.encoder.plan import EncoderPlan
from flowcut.encoder.prune_group import PruneGroup

PROXY_NOTE = (
    "This encoder has no CLS token: what is shown as CLS is a proxy, the mean of all patches' queries and values."
)
JOINED_NOTE = "Patches that were cut are not dropped: each is merged into one of the kept, {where}."
ON_THE_GRID = "which stands at its own place on the grid"
AS_MEAN = f"{ON_THE_GRID}, as the mean of all that it stands for"
CLS_NOTE = (
    "The CLS token goes to the language model as the first of the {tokens} tokens: it is no patch, no mask shows it, "
    "and {patches} patches are kept."
)
NO_CLS_DIFFERS = (
    "The released {label} hands the CLS token to the language model as one of its tokens; here {why}, so that all of "
    "them are patches."
)


def notes_of(plan: EncoderPlan, groups: Sequence[PruneGroup]) -> tuple[str, ...]:
    """Of a finished pass: what was scored and how, what became of what was cut, and where nothing was."""
    scored = any(group.cumulative is not None for group in groups)
    notes = ["Scores are taken in float32, whatever the model's dtype."] if scored else []
    if plan.proxy:
        notes.append(PROXY_NOTE)
    behind = looks_behind(plan)
    if behind is not None:
        notes.append(behind)
    return (*notes, *_handed_over(plan, groups), *_left_whole(plan, groups))


def looks_behind(plan: EncoderPlan) -> str | None:
    """A sentence where the cut's criterion looks at a layer that the language model does not read."""
    return None if plan.cut is None else plan.cut.looks_behind(plan.n_layers, plan.read_layer)


def cls_note(plan: EncoderPlan, groups: Sequence[PruneGroup]) -> str | None:
    """A sentence where the CLS token went to the language model as one of the tokens of a cut."""
    cut_groups = [group for group in groups if group.steps]
    if not plan.cls_goes_on or not cut_groups:
        return None
    patches = cut_groups[0].n_kept
    return CLS_NOTE.format(tokens=patches + 1, patches=patches)


def differences_of(plan: EncoderPlan, groups: Sequence[PruneGroup], encoder: VisionEncoder) -> tuple[str, ...]:
    """Where the cut in force is made in another way than in the released code of its method."""
    cut = plan.cut
    if cut is None:
        return ()
    by_encoder = encoder.differs_under(cut.variant) if cut.by_flowcut else ()
    was_cut = any(group.steps for group in groups)
    return (*by_encoder, *_without_cls(plan, cut), *cut.differs) if was_cut else by_encoder


def _handed_over(plan: EncoderPlan, groups: Sequence[PruneGroup]) -> list[str]:
    """What the tokens are that a method which merges hands over."""
    if plan.method is None or plan.method.joins is None:
        return []
    said = cls_note(plan, groups)
    if said is None:
        return [JOINED_NOTE.format(where=AS_MEAN if plan.method.merges_by_mean else ON_THE_GRID)]
    return [JOINED_NOTE.format(where="and those come behind the others, as released"), said]


def _left_whole(plan: EncoderPlan, groups: Sequence[PruneGroup]) -> list[str]:
    if plan.cut is None:
        return []
    whole = [index for index, group in enumerate(groups) if not group.steps]
    if len(whole) == len(groups):
        kind = "patches" if plan.merge_side == 1 else "tokens"
        most, rows = max(group.tokens for group in groups), sum(len(group.kept_ids) for group in groups)
        there = f"{most} {kind}" if rows == 1 else f"at most {most} {kind} in each of {rows} pictures or tiles"
        return [f"Nothing was cut: {plan.cut.tokens} tokens were asked for and there are {there}."]
    if plan.merge_side == 1:
        return []
    return [f"Row {row} was left whole: its budget is no smaller than its tokens." for row in whole]


def _without_cls(plan: EncoderPlan, cut: CutConfig) -> tuple[str, ...]:
    method = METHODS[cut.method]
    if cut.variant not in method.hands_cls or plan.cls_goes_on:
        return ()
    why = "a single token is a patch" if cut.tokens < 2 else "this family of models hands on patches alone"
    why = "the encoder has none" if plan.proxy else why
    return (NO_CLS_DIFFERS.format(label=method.label, why=why),)
