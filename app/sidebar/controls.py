"""Question, model, method and budget; everything else behind one expander.

Every box is given the session's value as its default too: a browser that missed the run in which a box was filled shows
the default, and sends it back as if someone had chosen it.
"""

from __future__ import annotations

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.cut import VARIANTS
from flowcut.published import published_of
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.media import gallery
from flowcut_lens.app.state import session

SMALLEST_OF = ("qwen3_vl", "qwen3_5", "internvl", "smolvlm", "deepseek_vl", "gemma3", "paligemma")
PUBLISHED = (
    *published_of("llava", "llava_next", "qwen2_vl", "qwen2_5_vl"),
    *(published_of(model_type)[0] for model_type in SMALLEST_OF),
)
"""Models that people will try on photographs."""
FOR_VIDEOS = published_of("video_llava", "llava_next_video", "qwen2_5_vl", "llava_onevision", "smolvlm", "internvl")
"""Models that take videos."""

MODEL_HELP = (
    "“embedded” comes with the program and knows drawn scenes only. Type a folder or a hub name to load another model "
    "of the families LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5, InternVL, "
    "SmolVLM, DeepSeek-VL, Gemma 3 or PaliGemma, for videos also Video-LLaVA or LLaVA-NeXT-Video, or any other "
    "image-text-to-text model, which is cut behind its projector and shows no flow; a published one is downloaded "
    "once, by the machine that runs this page."
)
BUDGET_HELP = "How many visual tokens the language model reads; the paper's budgets are 192, 128 and 64."


def question_box() -> None:
    """The question, and a few suggestions of which a click asks at once."""
    text, taken = st.session_state.question, "Ctrl+Enter takes it over, Run asks it"
    st.text_area("Question", text, key="question", height=68, help=taken)
    suggested = gallery.suggested_for(session.picture())
    with st.container(horizontal=True, gap="xsmall", key="suggestions"):
        for number, text in enumerate(suggested):
            st.button(text, key=f"suggestion-{number}", on_click=_ask_this, args=(text,), type="tertiary")


def _ask_this(question: str) -> None:
    st.session_state.question = question
    session.ask_if_quick()


def model_box() -> None:
    """Which model answers."""
    known = list(dict.fromkeys([EMBEDDED, *PUBLISHED, *FOR_VIDEOS]))
    chosen = st.session_state.model
    options = known if chosen in known else [*known, chosen]
    st.selectbox("Model", options, options.index(chosen), key="model", accept_new_options=True, help=MODEL_HELP)


def method_and_budget() -> None:
    """How patches are chosen, and how many; the budget in tokens and in percent follow each other."""
    state, patches = st.session_state, session.patches()
    named = _offered(state.method)
    st.selectbox(
        "Keep patches by", named, named.index(state.method), format_func=_label, key="method", help=_method_help()
    )
    tokens, percent = st.columns(2)
    tokens.number_input(
        f"Tokens of {patches}", 1, patches, state.tokens, key="tokens", step=16, on_change=_tokens_changed,
        help=BUDGET_HELP,
    )  # fmt: skip
    percent.number_input(
        "Percent", session.LEAST_PERCENT, 100.0, state.percent, key="percent", step=5.0, format="%.1f",
        on_change=_percent_changed,
    )  # fmt: skip


def _offered(chosen: str) -> list[str]:
    """The methods that can be asked for: of videos for a video alone, and none that the loaded model refuses.

    The one that is chosen stays in the list: whoever asks for it is told why it cannot be had.
    """
    video = session.picture().video is not None
    fitting = [name for name, one in METHODS.items() if not one.takes_patches and (video or not one.of_videos)]
    model = runtime().models.get(st.session_state.model)
    if model is not None:
        from flowcut.families.support import refusals

        refused = refusals(model, video=video)
        fitting = [name for name in fitting if name not in refused]
    return [name for name in METHODS if name in fitting or name == chosen]


def _label(method: str) -> str:
    return METHODS[method].label


def _method_help() -> str:
    return "\n\n".join(f"**{method.label}**: {method.source}" for method in METHODS.values())


def _tokens_changed() -> None:
    st.session_state.percent = session.percent_of(st.session_state.tokens)


def _percent_changed() -> None:
    st.session_state.tokens = max(1, round(session.patches() * st.session_state.percent / 100))


def _variant_help() -> str:
    named = ", ".join(one.label for one in METHODS.values() if one.has_variants and one.kind != "ablation")
    said = "official: what the authors' released code computes. paper: the paper's text where it differs."
    return f"{said} Of {named}, and of FlowCut's ablations."


def _own_settings(method: str) -> None:
    """What can be set of the chosen method alone."""
    for one in METHODS[method].settings:
        key, value, said = session.setting_key(method, one.name), session.own_setting(method, one), one.meaning
        if one.is_switch:
            st.toggle(one.label.capitalize(), bool(value), key=key, help=said)
        else:
            st.number_input(one.label.capitalize(), 0.0, 1.0, float(value), key=key, step=0.05, help=said)


def run_button() -> None:
    """Ask."""
    st.button("Run", type="primary", icon=":material/play_arrow:", on_click=session.ask, width="stretch", key="run")


def more() -> None:
    """Settings that most people leave alone."""
    state = st.session_state
    with st.expander("More"):
        st.segmented_control(
            "Variant", VARIANTS, key="variant", default=session.variant(), required=True, help=_variant_help(),
        )  # fmt: skip
        _own_settings(state.method)
        st.number_input("Seed of the random control", 0, 2**31 - 1, state.control_seed, key="control_seed", step=1)
        st.number_input("Most new tokens", 1, 1024, state.max_new_tokens, key="max_new_tokens", step=16)
        st.toggle("Sample the answer", state.do_sample, key="do_sample", help="Off: greedy, the same answer every time")
        sampled = state.do_sample
        st.slider("Temperature", 0.1, 2.0, state.temperature, key="temperature", step=0.1, disabled=not sampled)
        st.number_input(
            "Seed of the sampling", 0, 2**31 - 1, state.sampling_seed, key="sampling_seed", step=1, disabled=not sampled
        )
        st.text_area("System prompt", state.system, key="system", height=68, placeholder="None")
