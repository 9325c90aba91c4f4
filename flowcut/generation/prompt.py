"""A picture or video and a question as a model takes them: the prompt in its wording, and the inputs."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import BatchFeature

from flowcut.errors import InvalidQuestion
from flowcut.generation.medium import Medium, kind_of, processed
from flowcut.generation.question_text import clean_text
from flowcut.media.video import Video
from flowcut.models.loading import VisionLanguageModel


@dataclass(frozen=True, eq=False)
class Asked:
    """One question about one picture or video, not cut."""

    prompt: str
    """The text handed to the processor, system prompt and image placeholder included."""
    inputs: BatchFeature
    """What the processor made of it, on the CPU."""
    notes: tuple[str, ...]
    """What was changed in question and system prompt, one sentence each."""


def put_question(
    model: VisionLanguageModel, medium: Medium, question: str, system: str | None, new_tokens: int
) -> Asked:
    """Word a question for a model and process it with its picture or video.

    Raises:
        InvalidQuestion: (a ValueError) it is no text, blank, too long, or leaves no room for `new_tokens` of answer.
    """
    processor = model.processor
    added = processor.tokenizer.added_tokens_decoder.values()  # some tokenizers name their chat tokens only here
    commands = [token.content for token in added if token.special]
    places = [getattr(processor, f"{kind.name}_token") for kind in model.family.media]
    reserved = [*processor.tokenizer.all_special_tokens, *commands, *places]
    asked = clean_text(question, reserved)
    told = None if system is None else clean_text(system, reserved, what="system prompt")
    prompt = model.family.prompt(processor, asked.text, told.text if told else None, kind_of(model, medium))
    inputs = processed(model, medium, prompt)
    _check_length(model, inputs["input_ids"].shape[1], new_tokens)
    return Asked(prompt, inputs, (*asked.notes, *(told.notes if told else ()), *_presumed(model, medium)))


def _presumed(model: VisionLanguageModel, medium: Medium) -> tuple[str, ...]:
    """A note where the model is told times of frames that nobody knows."""
    rate = model.family.presumed_rate
    if rate is None or not isinstance(medium, Video) or medium.frames_a_second is not None:
        return ()
    return (f"The rate of the frames is not known: the prompt gives their times as if there were {rate} a second.",)


def _check_length(model: VisionLanguageModel, prompt_tokens: int, new_tokens: int) -> None:
    """The uncut prompt must fit, so that a question that fits with a cut can also be asked without."""
    limit = getattr(model.model.config.text_config, "max_position_embeddings", None)
    needed = prompt_tokens + new_tokens
    if limit is not None and needed > limit:
        raise InvalidQuestion(
            f"Prompt and answer need {needed} tokens ({prompt_tokens} + {new_tokens}), and this "
            f"model takes {limit}: shorten the question, or ask for fewer new tokens."
        )
