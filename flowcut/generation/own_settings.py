"""A checkpoint's own generation settings that would change what is counted, or raise: done without, and said."""

from __future__ import annotations

from typing import Any

from flowcut.settings import Generation

NEUTRAL: dict[str, Any] = {
    "prefill_chunk_size": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": None,
    "guidance_scale": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "num_beam_groups": None,
    "diversity_penalty": None,
    "constraints": None,
    "force_words_ids": None,
    "num_return_sequences": 1,
    "token_healing": False,
    "max_time": None,
    "use_cache": True,
    "cache_implementation": None,
}
"""What each is here. A prompt is read in one pass and an answer token by token, each listened to; guidance and the
searches whose code is no longer in transformers are not run; an answer ends by its length, not by the clock."""
USUAL: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (1, 1.0),
    "num_beam_groups": (1,),
    "diversity_penalty": (0, 0.0),
    "penalty_alpha": (0, 0.0),
    "cache_implementation": ("dynamic", "hybrid"),
}
"""Values besides None that change nothing."""
SILENT: dict[str, Any] = {
    "cache_config": None,
    "return_dict_in_generate": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
}
"""What generation would only hold in memory."""


def own_options(own: Any, wanted: Generation, tokenizer: Any) -> dict[str, Any]:
    """Arguments of `generate` that put a checkpoint's own settings aside, or give them what they need.

    Args:
        own: the model's `generation_config`.
        wanted: how to generate.
        tokenizer: the model's, for `stop_strings`, which are kept.
    """
    options = {name: NEUTRAL[name] for name in _put_aside(own, wanted) if name in NEUTRAL}
    options |= {name: value for name, value in SILENT.items() if getattr(own, name, None)}
    if _above(own, wanted):
        options["min_new_tokens"] = None
    if getattr(own, "stop_strings", None):
        options["tokenizer"] = tokenizer
    return options


def overruled(own: Any, wanted: Generation) -> tuple[str, ...]:
    """A note where the checkpoint's own generation settings ask for what is not done here; arguments as above."""
    sampling = ["sampling"] if own.do_sample and not wanted.do_sample else []
    beams = [f"{own.num_beams} beams"] if (own.num_beams or 1) > 1 else []
    others = [f"{name} = {getattr(own, name)!r}" for name in _put_aside(own, wanted)]
    asked = [*sampling, *beams, *others]
    if not asked:
        return ()
    done = f"{'sampled' if wanted.do_sample else 'greedy'}, with one beam" + (" and without the rest" if others else "")
    return (f"The model's own generation settings ask for {' and '.join(asked)}; this answer is {done}.",)


def _put_aside(own: Any, wanted: Generation) -> list[str]:
    """Names of the checkpoint's settings that are not followed."""
    names = [
        name
        for name, neutral in NEUTRAL.items()
        if (value := getattr(own, name, None)) is not None and value != neutral and value not in USUAL.get(name, ())
    ]
    return [*names, *(["min_new_tokens"] if _above(own, wanted) else [])]


def _above(own: Any, wanted: Generation) -> bool:
    """Whether the checkpoint's shortest answer is longer than the longest one that is asked for."""
    return (getattr(own, "min_new_tokens", None) or 0) > wanted.max_new_tokens
