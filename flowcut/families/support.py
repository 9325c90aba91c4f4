"""Which cuts a model allows, and why it does not allow the others: one sentence each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from flowcut.criteria import METHODS
from flowcut.criteria.method import OF_VIDEOS
from flowcut.criteria.positions import KEPT, RENUMBERED, Positions, known_positions
from flowcut.criteria.stages import DECODER, ENCODER, PICTURE, PROJECTOR, Stage
from flowcut.cut import CutConfig, all_cuts, stage_of
from flowcut.decoder.locate import find_decoder
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.families.family import Family
from flowcut.families.registry import family_of
from flowcut.hooks.usable import check_is_model

NOT_READ = (
    "which is not read in {name} models: choose a method that needs projected tokens alone, or one that cuts in the "
    "language model."
)


def refusals(model: Any, video: bool = False) -> dict[str, str]:
    """Method name -> one sentence why this model does not allow it; empty where it allows all.

    Args:
        model: what `flowcut.load` returned, or a transformers model of a supported family.
        video: whether it is asked about a video, not about a picture.

    Raises:
        ModelNotLoaded: (a ValueError) the model is of a family that is not supported.
    """
    hf_model = model if isinstance(model, PreTrainedModel) else getattr(model, "model", model)
    check_is_model(hf_model)
    family = family_of(hf_model.config)
    reasons = {name: _reason(name, hf_model, family) or _medium_reason(name, video) for name in METHODS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def allowed_cuts(model: Any, tokens: int, seeds: Iterable[int] = (0,), every_setting: bool = False) -> list[CutConfig]:
    """A cut of every method that this model allows for a picture, at a budget; see `all_cuts` for the other arguments.

    Args:
        model: as for `refusals`, which has a sentence for every method that is not here.
    """
    refused = refusals(model)
    return [cut for cut in all_cuts(tokens, seeds, every_setting) if cut.method not in refused]


def check_budget(model: Any, tokens: int) -> None:
    """Refuse a budget of more tokens than the model sees a picture as.

    Raises:
        InvalidCut: the sentence says how many there are.
    """
    if tokens > model.n_patches:
        noun = "tokens" if model.family.merges_patches else "patches"
        raise InvalidCut(
            f"tokens is {tokens}, and {model.id} sees a picture as {model.n_patches} {noun}: "
            f"choose 1 to {model.n_patches}."
        )


def check_allowed(cut: CutConfig | None, hf_model: PreTrainedModel, family: Family) -> None:
    """Refuse a cut that this model does not allow.

    Raises:
        InvalidCut: the sentence that `refusals` has for it.
    """
    if cut is None:
        return
    reasons = (_reason(one.method, hf_model, family) or _positions_reason(one, hf_model, family) for one in cut.stages)
    reason = next(filter(None, reasons), None) or _second_reason(cut, hf_model, family)
    if reason is not None:
        raise InvalidCut(reason)


def check_medium(cut: CutConfig, video: bool) -> None:
    """Refuse a method that compares the frames of a video where a picture came.

    Raises:
        InvalidCut: the sentence says so.
    """
    reason = _medium_reason(cut.method, video)
    if reason is not None:
        raise InvalidCut(reason)


def positions_under(cut: CutConfig, family: Family) -> Positions:
    """What becomes of the positions of the tokens that stay: as the cut says, else as the method's release does it.

    A family whose positions are places in the picture keeps them.
    """
    if cut.positions is not None:
        return known_positions(cut.positions)
    return KEPT if family.positions_are_places else METHODS[cut.method].positions


def stage_under(cut: CutConfig | None, family: Family) -> Stage | None:
    """Where a cut is made in a model of this family: behind the projector, where the vision encoder is not read."""
    stage = stage_of(cut)
    return PROJECTOR if family.unread and stage is ENCODER else stage


def hands_cls(cut: CutConfig, family: Family) -> bool:
    """Whether one of the T tokens that the language model reads under this cut is CLS, and T - 1 are patches."""
    return family.hands_cls and cut.variant in METHODS[cut.method].hands_cls and cut.tokens > 1


def check_positions(positions: Positions, hf_model: PreTrainedModel, family: Family) -> None:
    """Refuse positions that this model cannot have.

    Raises:
        InvalidCut: one sentence.
    """
    reason = _cannot_have(positions, hf_model, family)
    if reason is not None:
        raise InvalidCut(reason)


def _medium_reason(name: str, video: bool) -> str | None:
    if video or not METHODS[name].of_videos:
        return None
    return f"{METHODS[name].label} compares the frames of a video: ask about one, or choose another method."


def _second_reason(cut: CutConfig, hf_model: PreTrainedModel, family: Family) -> str | None:
    if cut.then is None or family.flowcut_layer(hf_model, cut) is None:
        return None
    return (
        f"FlowCut cuts {family.name} in its language model too, so that no second cut can follow: leave it out, or "
        "choose another method for the first."
    )


def _reason(name: str, hf_model: PreTrainedModel, family: Family) -> str | None:
    method, label = METHODS[name], METHODS[name].label
    if "text_tower" in method.needs:
        return (
            f"{label} needs CLIP's text tower to say which patches the question is about, and {family.name} models "
            "hold none: choose another method."
        )
    if method.of_videos:
        no_videos = f"{label} compares the frames of a video, and {family.name} takes none: choose another method."
        return None if family.frames else no_videos
    if family.unread and method.cuts_at is ENCODER:
        looks = method.recipe is not None or bool(method.needs)
        return f"{label} looks into the vision encoder, {NOT_READ.format(name=family.name)}" if looks else None
    if method.cuts_at not in family.stages:
        why = family.why_not.get(method.cuts_at.name, f"that is not built for {family.name}")
        return f"{label} cuts {method.cuts_at.place}, and {why}: choose another method."
    if method.cuts_at is DECODER:
        return _decoder_reason(label, hf_model, family)
    if method.cuts_at is ENCODER and _compares_patches(name) and family.merges_patches:
        return f"{label} compares single patches, and {family.name} cuts squares of them: choose another method."
    if method.cuts_at is PROJECTOR and family.merges_patches and set(method.needs) - OF_VIDEOS:
        return (
            f"{label} asks what attention single patches get, and {family.name} makes one token of several: choose "
            "another method."
        )
    if method.takes_patches and not family.one_grid:
        return f"{label} patches are named on one grid, and {family.name} sees a picture as several tiles or frames."
    return None


def _positions_reason(cut: CutConfig, hf_model: PreTrainedModel, family: Family) -> str | None:
    if cut.positions == KEPT and METHODS[cut.method].cuts_at is PICTURE:
        return (
            f"{METHODS[cut.method].label} makes a grid of its own, whose patches have no places in the full prompt: "
            "its positions are renumbered, leave positions out."
        )
    if cut.positions == KEPT and hands_cls(cut, family) and cut.tokens < family.n_patches(hf_model):
        return (
            f"{METHODS[cut.method].label} hands CLS over, and merged tokens behind the others, which have no places in "
            "the full prompt: its positions are renumbered, leave positions out, or take the variant paper."
        )
    return None if cut.positions is None else _cannot_have(positions_under(cut, family), hf_model, family)


def _cannot_have(positions: Positions, hf_model: PreTrainedModel, family: Family) -> str | None:
    if positions == RENUMBERED:
        if family.positions_are_places:
            return (
                f"{family.name} numbers visual tokens by their place in the picture, which has no gaps to close: leave "
                "positions out, or say kept."
            )
        return None
    if "flash" in (hf_model.config.text_config._attn_implementation or ""):
        return (
            "Flash attention takes gaps between positions for borders between prompts: load the model with the "
            "attention sdpa, or say positions renumbered."
        )
    return None


def _compares_patches(name: str) -> bool:
    return bool({"keys", "features"} & set(METHODS[name].needs))


def _decoder_reason(label: str, hf_model: PreTrainedModel, family: Family) -> str | None:
    reason = family.decoder_reason(hf_model)
    if reason is not None:
        return f"{label} cuts in the language model, and this one cannot be cut. {reason}"
    try:
        decoder = find_decoder(family.language_model(hf_model))
    except FlowCutError as error:
        return f"{label} cuts in the language model, and this one cannot be cut. {error}"
    if len(decoder.layers) < 2:
        return f"{label} cuts between layers of the language model, and this one has a single layer."
    return None
