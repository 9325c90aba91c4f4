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
from flowcut_lens.app.media import gallery
from flowcut_lens.app.state import session

PUBLISHED = published_of("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")
"""Models that people will try on photographs."""
FOR_VIDEOS = published_of("video_llava", "llava_next_video", "qwen2_5_vl", "llava_onevision")
"""Models that take videos."""

MODEL_HELP = (
    "“embedded” comes with the program and knows drawn scenes only. Type a folder or a hub name to load another model "
    "of the families LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL or Qwen2.5-VL, for videos also Video-LLaVA or "
    "LLaVA-NeXT-Video; a published one is downloaded once, by the machine that runs this page."
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
    named = [name for name, method in METHODS.items() if not method.takes_patches]
    state, patches = st.session_state, session.patches()
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


def _label(method: str) -> str:
    return METHODS[method].label


def _method_help() -> str:
    return "\n\n".join(f"**{method.label}**: {method.source}" for method in METHODS.values())


def _tokens_changed() -> None:
    st.session_state.percent = session.percent_of(st.session_state.tokens)


def _percent_changed() -> None:
    st.session_state.tokens = max(1, round(session.patches() * st.session_state.percent / 100))


def _variant_help() -> str:
    both = [method.label for method in METHODS.values() if method.has_variants and method.kind != "ablation"]
    said = "official: what the authors' released code computes. paper: the paper's text where it differs."
    return f"{said} For {', '.join(both)}."


def run_button() -> None:
    """Ask."""
    st.button("Run", type="primary", icon=":material/play_arrow:", on_click=session.ask, width="stretch", key="run")


def more() -> None:
    """Settings that most people leave alone."""
    state = st.session_state
    with st.expander("More"):
        st.segmented_control(
            "Variant", VARIANTS, key="variant", default=session.variant(), required=True,
            help=_variant_help(),
        )  # fmt: skip
        st.number_input("Seed of the random control", 0, 2**31 - 1, state.control_seed, key="control_seed", step=1)
        st.number_input("Most new tokens", 1, 1024, state.max_new_tokens, key="max_new_tokens", step=16)
        st.toggle("Sample the answer", state.do_sample, key="do_sample", help="Off: greedy, the same answer every time")
        sampled = state.do_sample
        st.slider("Temperature", 0.1, 2.0, state.temperature, key="temperature", step=0.1, disabled=not sampled)
        st.number_input(
            "Seed of the sampling", 0, 2**31 - 1, state.sampling_seed, key="sampling_seed", step=1, disabled=not sampled
        )
        st.text_area("System prompt", state.system, key="system", height=68, placeholder="None")
