"""What one visitor has on screen. All of it lives in Streamlit's session state: no other session can reach it.

Widgets read and write their own keys (`question`, `model`, `method`, `tokens`, `percent`, `variant`, ...); the other
keys hold the picture, the last good comparison, the job that is running, and what went wrong last.
"""

from __future__ import annotations

import random
from typing import Any

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.criteria.setting import Setting, SettingValue, read_settings
from flowcut.cut import CutConfig
from flowcut.errors import FlowCutError
from flowcut.settings import Generation
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.orders import Job, Order
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.visitors import visitor
from flowcut_lens.app.media import gallery
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.media.videos import USUAL_FRAMES, check_frames, limits
from flowcut_lens.app.state import selection, url

DEFAULTS: dict[str, Any] = {
    "model": EMBEDDED,
    "method": "flowcut",
    "tokens": 64,
    "variant": "official",
    "control_seed": 0,
    "max_new_tokens": 128,
    "do_sample": False,
    "temperature": 1.0,
    "sampling_seed": 0,
    "system": "",
}
CUT_IN_ADDRESS = ("method", "tokens", "variant")


def setting_key(method: str, setting: str) -> str:
    """The widget's key of one of a method's own settings."""
    return f"{method}-{setting}"


USUAL_PATCHES = 576
"""Patches of CLIP-L/336 and of the embedded model; used until a run has shown how many its model really has."""

LEAST_PERCENT = 0.1

DRAWN_SEEDS = (1_000_000, 1_000_000_000)
"""Where new scenes come from: far from the seeds that the embedded model was trained and tested on."""


def begin() -> None:
    """Fill a new visitor's session: the first scene of the gallery with its stored answers."""
    state = st.session_state
    if "picture" in state:
        return
    state.update({"comparison": None, "job": None, "problem": None, "model_in_use": EMBEDDED, **DEFAULTS})
    opened = url.read()
    state.method, state.variant = opened.method or state.method, opened.variant or state.variant
    for name, value in _opened_settings(state.method, opened.settings).items():
        state[setting_key(state.method, name)] = value
    state.tokens = min(opened.tokens or state.tokens, USUAL_PATCHES)
    state.percent = percent_of(state.tokens)
    show_scene(gallery.entries()[0].seed if opened.scene is None else opened.scene, opened.question)
    selection.choose(**opened.choices)


def address() -> url.Link | None:
    """What the page's address must say for a link to show these answers again; None: they have no address.

    What a bare address shows too is left out.
    """
    shown = comparison()
    if shown is None or shown.picture.seed is None or shown.cut.cut is None or shown.full.model_id != EMBEDDED:
        return None
    seed, cut = shown.picture.seed, shown.cut.cut
    said = {
        "scene": seed,
        "question": shown.full.question,
        **{name: getattr(cut, name) for name in CUT_IN_ADDRESS},
        "settings": _settings_in_address(cut),
        **selection.chosen().in_address(),
    }
    usual = {
        "scene": gallery.entries()[0].seed,
        "question": gallery.suggested_questions(seed)[0],
        **{name: DEFAULTS[name] for name in CUT_IN_ADDRESS},
        "settings": "",
        **selection.Selection().in_address(),
    }
    return url.Link(**{name: value for name, value in said.items() if value != usual[name]})


def _settings_in_address(cut: CutConfig) -> str:
    """As `url.Link.settings` says it; empty where all are as usual."""
    values = dict(cut.settings)
    declared = METHODS[cut.method].settings
    return ",".join(f"{one.name}:{one.written(values[one.name])}" for one in declared if values[one.name] != one.usual)


def _opened_settings(method: str, text: str | None) -> dict[str, Any]:
    """What an address says of a method's own settings; nothing where it says what cannot be."""
    pairs = [part.split(":", 1) for part in (text or "").split(",")]
    try:
        return dict(read_settings(method, METHODS[method].settings, {pair[0]: pair[-1] for pair in pairs if pair[0]}))
    except FlowCutError:
        return {}


def picture() -> ChosenPicture:
    """The picture that the next question is about."""
    found: ChosenPicture = st.session_state.picture
    return found


def comparison() -> Comparison | None:
    """The last good answers."""
    found: Comparison | None = st.session_state.comparison
    return found


def job() -> Job | None:
    """The question that is being answered now."""
    found: Job | None = st.session_state.job
    return found


def problem() -> str | None:
    """Why the last question or upload failed, one sentence."""
    found: str | None = st.session_state.problem
    return found


def patches() -> int:
    """How many visual tokens the model in use reads of a full picture, as its last run showed."""
    last = comparison()
    return USUAL_PATCHES if last is None else last.full.visual_tokens


def usual_frames() -> int:
    """How many frames are taken of a video, unless others are asked for: as many as the chosen model is used to."""
    known = limits(st.session_state.model)
    return known.usual if known is not None and known.usual else USUAL_FRAMES


def percent_of(tokens: int) -> float:
    """A budget in tokens as percent of all patches; never so little that the box would show nothing."""
    return max(LEAST_PERCENT, round(100.0 * tokens / patches(), 1))


def show_scene(seed: int, question: str | None = None) -> None:
    """Choose a drawn scene: its stored answers appear at once; without any, its (or this) question is asked."""
    choose(gallery.drawn_picture(seed), question or gallery.suggested_questions(seed)[0])
    example = gallery.stored_example(seed)
    if example is not None and _matches_settings(example):
        st.session_state.update({"comparison": example, "picture": example.picture})
    else:
        ask_if_quick()


def ask_with(model: str) -> None:
    """Choose another model and ask it what is on screen."""
    st.session_state.model = model
    ask()


def show_new_scene() -> None:
    """Draw a scene nobody has seen, and ask about it."""
    show_scene(random.randrange(*DRAWN_SEEDS))


def choose(chosen: ChosenPicture, question: str) -> None:
    """Make this the picture of the next question; what was running, or being opened, for another picture stops."""
    _stop_running()
    st.session_state.pop("waiting_video", None)
    selection.choose(word=0)
    st.session_state.update({"picture": chosen, "question": question, "problem": None})


def ask_if_quick() -> None:
    """Ask at once where the answer takes a second: with the embedded model. Others wait for the Run button."""
    if st.session_state.model == EMBEDDED:
        ask()


def ask() -> None:
    """Put the question with the settings on screen; what was running before stops."""
    state = st.session_state
    _stop_running()
    try:
        order = _order()
    except FlowCutError as error:
        state.problem = str(error)
        return
    state.update({"job": runtime().submit(order, visitor()), "asked_about": picture(), "problem": None})
    selection.choose(word=0)


def collect() -> None:
    """Take in a job that has ended: its answers, or why there are none; then the last good ones stay on screen."""
    state, ended = st.session_state, job()
    if ended is None or not ended.ended.is_set():
        return
    state.job = None
    if ended.complete:
        full, cut, control = ended.answers
        state.comparison = Comparison(state.asked_about, full, cut, control)
        state.model_in_use = ended.order.model
        _fit_budget()
    elif ended.stop.is_set() and ended.fetching:
        state.problem = (
            f"Stopped fetching {ended.order.model}: what has come of it is kept, and the download goes on from there "
            "when you ask again."
        )
        state.model = state.model_in_use
    elif ended.stop.is_set():
        state.problem = "Stopped before all three answers were there; the last complete ones are still shown."
    else:
        state.problem = _with_model_in_use(ended)


def _with_model_in_use(failed: Job) -> str:
    """Why it failed; when the model could not be loaded, the one loaded before is chosen again."""
    state = st.session_state
    if not failed.model_failed:
        return failed.error or "The run ended without an answer: ask again."
    state.model = state.model_in_use
    return f"{failed.error} The model “{state.model_in_use}” stays in use."


def _fit_budget() -> None:
    """A model with fewer patches than the budget in the box: the box shows all of them.

    Written only where it must change: writing a widget's value takes away what someone is typing into it.
    """
    state = st.session_state
    if state.tokens > patches():
        state.tokens = patches()
    if state.percent != percent_of(state.tokens):
        state.percent = percent_of(state.tokens)


def _stop_running() -> None:
    running = job()
    if running is not None:
        running.cancel()
        st.session_state.job = None


def _order() -> Order:
    """The question and settings on screen.

    Raises:
        FlowCutError: one sentence about a setting that cannot be carried out.
    """
    state = st.session_state
    sampling = {"temperature": state.temperature, "seed": state.sampling_seed} if state.do_sample else {}
    generation = Generation(state.max_new_tokens, state.do_sample, system=state.system.strip() or None, **sampling)
    if picture().video is not None:
        check_frames(state.model, len(picture().frames))
    return Order(state.model, picture().source, state.question, chosen_cut(), control_cut(), generation)


def chosen_cut() -> CutConfig:
    """The method and budget on screen."""
    state = st.session_state
    method = METHODS[state.method]
    settings: dict[str, Any] = {"variant": variant()} if method.has_variants else {}
    if method.takes_seed:
        settings["seed"] = state.control_seed + 1  # random against random: two different draws
    if method.settings:
        settings["settings"] = {one.name: own_setting(state.method, one) for one in method.settings}
    return CutConfig(state.method, state.tokens, **settings)


def own_setting(method: str, setting: Setting) -> SettingValue:
    """The value on screen of one of a method's own settings; the usual one where nobody chose any."""
    chosen = st.session_state.get(setting_key(method, setting.name))
    return setting.usual if chosen is None else chosen


def variant() -> str:
    """The variant on screen; the usual one where a browser that missed a run has sent None."""
    if st.session_state.variant is None:
        st.session_state.variant = DEFAULTS["variant"]
    chosen: str = st.session_state.variant
    return chosen


def control_cut() -> CutConfig:
    """Random tokens at the same budget: what any method must beat."""
    return CutConfig("random", st.session_state.tokens, seed=st.session_state.control_seed)


def _matches_settings(example: Comparison) -> bool:
    """Whether the stored answers are those that the settings on screen would give."""
    order = _order()
    same_cuts = (example.cut.cut, example.control.cut) == (order.cut, order.control)
    same_question = order.question == example.full.question
    return order.model == EMBEDDED and same_question and same_cuts and order.generation == Generation()
