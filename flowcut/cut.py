"""What a cut may say: its method, budget and settings, checked once. Pure Python, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from flowcut.checks import whole_number
from flowcut.criteria import METHODS, Method, known_method
from flowcut.criteria.positions import known_positions
from flowcut.criteria.setting import SettingValue, checked_settings
from flowcut.criteria.stages import DECODER, Stage
from flowcut.errors import InvalidCut

FLOWCUT = "flowcut"
"""The method's name in the registry."""
VARIANTS = ("official", "paper")


@dataclass(frozen=True)
class CutConfig:
    """Which visual tokens to keep. Built by `flowcut.FlowCut` or `flowcut.Cut`; checked here, once, on construction.

    Raises:
        InvalidCut: (a ValueError) one sentence for each setting that cannot be carried out.
    """

    method: str = FLOWCUT
    """Name of the criterion, one of `flowcut.methods()`."""
    tokens: int = 64
    """T, patches to keep per image; CLS is not counted, but where a method hands it to the language model as one of
    its tokens (`Method.hands_cls`). At or above the number of patches, nothing is cut."""
    variant: str = "official"
    """`official`: what the authors' released code computes. `paper`: the paper's text where it differs."""
    layer: int | None = None
    """Methods that take one: the layer they look at; negative counts from the end; None: the feature layer
    (`column-mean`: a middle one)."""
    seed: int | None = None
    """`random` only: seed of the draw (None: 0)."""
    per_image: bool = False
    """False: one count for the whole batch, as released. True: each image's count and ids depend on it alone."""
    patches: tuple[int, ...] | None = None
    """`chosen` only: the T patches to keep, ascending; where squares of patches become one token, these squares."""
    positions: str | None = None
    """Of the tokens that stay, in the language model: `kept`, those of the full prompt; `renumbered`, without gaps;
    None: as the method's release does it (`Method.positions`), and in Qwen-VL, whose positions are places in the
    picture, kept."""
    then: CutConfig | None = None
    """A second cut, inside the language model, of the tokens that the first one leaves: a method of the decoder stage
    with a smaller budget. `positions` are said once, by the first."""
    settings: Any = ()
    """The method's own (`Method.settings`): a mapping in, pairs of name and value out, those left out as usual."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", whole_number("tokens", self.tokens, least=1, error=InvalidCut))
        method = known_method(self.method)
        if self.variant not in VARIANTS:
            raise InvalidCut(f"The variant is {self.variant!r}: choose one of {', '.join(VARIANTS)}.")
        if self.variant != "official" and not method.has_variants:
            raise InvalidCut(f"The method {self.method!r} has no variants: leave variant out.")
        if self.positions is not None:
            known_positions(self.positions, InvalidCut)
        if not isinstance(self.per_image, bool):
            raise InvalidCut(f"per_image is {self.per_image!r}: it must be True or False.")
        self._check_layer(method.takes_layer)
        self._check_seed(method.takes_seed)
        self._check_patches(method.takes_patches)
        object.__setattr__(self, "settings", checked_settings(self.method, method.settings, self.settings))
        self._check_then()

    def _check_then(self) -> None:
        if isinstance(self.then, dict):  # as `as_dict` wrote it
            object.__setattr__(self, "then", CutConfig(**self.then))
        second = self.then
        if second is None:
            return
        if not isinstance(second, CutConfig):
            raise InvalidCut(f"then is a {type(second).__name__}: give a cut, such as flowcut.Cut('fastv', tokens=32).")
        if second.then is not None:
            raise InvalidCut(f"then is a cut of two stages, {second.title}: give one of a single stage.")
        if second.stage is not DECODER:
            names = ", ".join(name for name, method in METHODS.items() if method.cuts_at is DECODER)
            raise InvalidCut(
                f"{second.label} cuts {second.stage.place}, and the second cut is made in the language model: choose "
                f"one of {names}."
            )
        if self.stage is DECODER:
            raise InvalidCut(
                f"{self.label} cuts in the language model already: let a method that cuts before it come first."
            )
        if second.positions is not None:
            raise InvalidCut("then has positions of its own: say positions once, for both cuts, on the first.")
        if second.tokens >= self.tokens:
            raise InvalidCut(
                f"The second cut keeps {second.tokens} tokens of {self.tokens}: choose 1 to {self.tokens - 1}."
            )

    def _check_layer(self, takes_layer: bool) -> None:
        if self.layer is None:
            return
        if not takes_layer:
            raise InvalidCut(f"The method {self.method!r} takes no layer: leave layer out.")
        object.__setattr__(self, "layer", whole_number("layer", self.layer, error=InvalidCut))

    def _check_seed(self, takes_seed: bool) -> None:
        if not takes_seed and self.seed is not None:
            raise InvalidCut(f"The method {self.method!r} draws nothing at random: leave seed out.")
        if takes_seed:
            seed = 0 if self.seed is None else whole_number("seed", self.seed, least=0, error=InvalidCut)
            object.__setattr__(self, "seed", seed)

    def _check_patches(self, takes_patches: bool) -> None:
        if not takes_patches:
            if self.patches is not None:
                raise InvalidCut(f"The method {self.method!r} chooses the patches itself: leave patches out.")
            return
        if not isinstance(self.patches, Iterable) or isinstance(self.patches, str):
            raise InvalidCut(f"patches is {self.patches!r}: give the ids of the patches to keep, such as (3, 17).")
        ids = sorted(whole_number("a patch", patch, least=0, error=InvalidCut) for patch in self.patches)
        if len(set(ids)) < len(ids) or len(ids) != self.tokens:
            raise InvalidCut(
                f"patches holds {len(ids)} ids, {len(set(ids))} of them different, and tokens is {self.tokens}: "
                "give each patch once, and tokens=len(patches)."
            )
        object.__setattr__(self, "patches", tuple(ids))

    @property
    def stage(self) -> Stage:
        """Where it cuts."""
        return known_method(self.method).cuts_at

    @property
    def label(self) -> str:
        """The method's name for readers, of the first cut alone."""
        return known_method(self.method).label

    @property
    def stages(self) -> tuple[CutConfig, ...]:
        """The cuts one after the other: this one without a second, then the second, if there is one.

        What is said of positions is said to both.
        """
        first = replace(self, then=None)
        return (first,) if self.then is None else (first, replace(self.then, positions=self.positions))

    @property
    def first(self) -> CutConfig:
        """This cut without a second one."""
        return self.stages[0]

    @property
    def in_decoder(self) -> CutConfig | None:
        """The cut inside the language model, by another method than FlowCut; None: there is none."""
        last = self.stages[-1]
        return last if last.stage is DECODER else None

    @property
    def tokens_left(self) -> int:
        """Tokens that the language model's last layer reads of a picture: the last cut's budget."""
        return self.stages[-1].tokens

    @property
    def by_flowcut(self) -> bool:
        """Whether FlowCut itself cuts, not an ablation of it and no other method."""
        return self.method == FLOWCUT

    def setting(self, name: str) -> SettingValue:
        """The value of one of the method's own settings; False of one that it does not have."""
        value: SettingValue = dict(self.settings).get(name, False)
        return value

    @property
    def own_differences(self) -> tuple[str, ...]:
        """What the first cut does in another way than its method's released code, one sentence each."""
        return known_method(self.method).differences(self.variant, self.settings)

    @property
    def differs(self) -> tuple[str, ...]:
        """What is done in another way than in the methods' released code, one sentence each."""
        return tuple(sentence for one in self.stages for sentence in one.own_differences)

    @property
    def set_apart(self) -> tuple[str, ...]:
        """Variant and own settings, as a title names them."""
        method, values = known_method(self.method), dict(self.settings)
        variant = (self.variant,) if method.has_variants else ()
        return (*variant, *(one.said(values[one.name]) for one in method.settings))

    @property
    def title(self) -> str:
        """The cut as a figure's legend names it, such as `FlowCut 64 (official)` or `VisionZip 128 + FastV 64`."""
        if self.then is not None:
            return f"{self.first.title} + {self.then.title}"
        method = known_method(self.method)
        details = list(self.set_apart)
        if method.takes_layer:
            details.append(method.default_layer if self.layer is None else f"layer {self.layer}")
        if method.takes_seed:
            details.append(f"seed {self.seed}")
        if self.per_image:
            details.append("per image")
        if self.positions is not None:
            details.append(f"positions {self.positions}")
        return f"{method.label} {self.tokens}" + (f" ({', '.join(details)})" if details else "")

    def looks_behind(self, n_layers: int, read_layer: int) -> str | None:
        """A sentence where the criterion looks at a vision layer that reaches no answer; None where it does not.

        Args:
            n_layers: of the vision encoder.
            read_layer: the deepest layer (from 0) whose output the language model reads.
        """
        if self.layer is None or self.layer % n_layers <= read_layer:
            return None
        return (
            f"{known_method(self.method).label} looks at vision layer {self.layer % n_layers}, behind layer "
            f"{read_layer} whose output the language model reads: no answer depends on that layer, and nothing need "
            "have trained it."
        )

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, ready for JSON; `CutConfig(**d)` gives the same cut again.

        Patches, positions and a second cut are left out where none were given, and settings where the method had
        neither any nor variants before there were settings: a run's id must stay what it was then.
        """
        method = known_method(self.method)
        told = bool(method.settings) or (method.has_variants and method.kind == "peer")
        plain = {**asdict(replace(self, then=None)), "settings": dict(self.settings) if told else None}
        plain["then"] = None if self.then is None else self.then.as_dict()
        newer = ("patches", "positions", "settings", "then")
        return {name: value for name, value in plain.items() if name not in newer or value is not None}


def FlowCut(tokens: int = 64, variant: str = "official", per_image: bool = False) -> CutConfig:
    """FlowCut at T = `tokens` patches per image (arXiv 2505.19536), as released or as the paper's text has it."""
    return CutConfig(FLOWCUT, tokens, variant, per_image=per_image)


def Cut(method: str, tokens: int = 64, **settings: Any) -> CutConfig:
    """Any method by its name: `Cut("random", tokens=64, seed=3)`, `Cut("cls-attention", tokens=64, layer=5)`.

    A method's own settings go by their names too: `Cut("vispruner", tokens=64, important_share=0.75)`. With a second
    cut inside the language model: `Cut("visionzip", tokens=128, then=Cut("fastv", tokens=64))`.
    """
    common = {field.name for field in fields(CutConfig)}
    own = {name: value for name, value in settings.items() if name not in common}
    given = {name: value for name, value in settings.items() if name in common}
    if own:
        given["settings"] = {**dict(given.get("settings", ())), **own}
    return CutConfig(method, tokens, **given)


BEFORE_SETTINGS: dict[str, dict[str, Any]] = {
    "vispruner": {"settings": {"important_share": 0.75}},
    "visionzip": {"variant": "paper"},
    "column-mean": {"variant": "paper"},
    "dart": {"variant": "paper"},
}
"""What methods did before they had settings and variants."""


def stored_cut(facts: Mapping[str, Any] | None) -> CutConfig | None:
    """The cut that `as_dict` wrote into a file; one of before there were settings is what it was then."""
    if facts is None:
        return None
    as_before = BEFORE_SETTINGS.get(facts["method"], {}) if "settings" not in facts else {}
    return CutConfig(**{**facts, **as_before})


def cut_from_text(text: str) -> CutConfig:
    """A cut as one word: `visionzip:128`, or with a second cut inside the language model `visionzip:128+fastv:64`.

    Raises:
        InvalidCut: it is no such word, or names a cut that there is not.
    """
    found = [re.fullmatch(r"([a-z0-9-]+):(\d+)", part) for part in text.split("+")]
    cuts = [CutConfig(one[1], int(one[2])) for one in found if one]
    if not 1 <= len(found) <= 2 or len(cuts) < len(found):
        raise InvalidCut(f"The cut is {text!r}: write METHOD:TOKENS, or two such as visionzip:128+fastv:64.")
    return cuts[0] if len(cuts) == 1 else replace(cuts[0], then=cuts[1])


def stage_of(cut: CutConfig | None) -> Stage | None:
    """Where a cut is made; None: nothing is cut."""
    return None if cut is None else cut.stage


def all_cuts(tokens: int, seeds: Iterable[int] = (0,), every_setting: bool = False) -> list[CutConfig]:
    """A cut of every method at a budget, in the order of the registry; one whose patches somebody names is left out.

    Args:
        seeds: a method that draws at random comes once for each.
        every_setting: FlowCut and other papers' methods come in both variants, and with each of their switches on and
            off. A method that takes a layer comes at its own default, one that the language model reads.
    """
    drawn, found = list(seeds), []
    for name, method in METHODS.items():
        seeded = [{"seed": seed} for seed in drawn] if method.takes_seed else [{}]
        settings: list[dict[str, Any]] = seeded + (_other_settings(method) if every_setting else [])
        found += [] if method.takes_patches else [CutConfig(name, tokens, **one) for one in settings]
    return found


def _other_settings(method: Method) -> list[dict[str, Any]]:
    """What a method can be asked for besides its usual self; an ablation is a variant already."""
    if method.kind not in ("flowcut", "peer"):
        return []
    variants = [{"variant": variant} for variant in VARIANTS[1:]] if method.has_variants else []
    return variants + [{"settings": {one.name: not one.usual}} for one in method.settings if one.is_switch]


def check_is_cut(cut: object) -> None:
    """Refuse what is given as a cut and is none.

    Raises:
        InvalidCut: it is neither a CutConfig nor None.
    """
    if cut is not None and not isinstance(cut, CutConfig):
        raise InvalidCut(f"cut is a {type(cut).__name__}: give flowcut.FlowCut(tokens=64), flowcut.Cut(...) or None.")


def check_single(cut: CutConfig | None) -> None:
    """Refuse a cut of two stages where one part of a model is recorded.

    Raises:
        InvalidCut: it has a second stage.
    """
    if cut is not None and cut.then is not None:
        raise InvalidCut(
            f"{cut.title} cuts in two parts of a model: give it to flowcut.ask or flowcut.prune, with the whole model."
        )


def even_shares(tokens: int, parts: int, noun: str) -> list[int]:
    """A budget shared evenly by the `parts` of a video, the first ones taking what cannot be divided.

    Raises:
        InvalidCut: there are more parts than tokens.
    """
    if tokens < parts:
        raise InvalidCut(
            f"tokens is {tokens}, and this video is {parts} {noun}, each of which keeps at least one: choose {parts} "
            "or more, or sample fewer frames."
        )
    each, rest = divmod(tokens, parts)
    return [each + (place < rest) for place in range(parts)]
