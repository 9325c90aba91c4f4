"""A question in the wording of a chat template, whoever keeps it: processor or tokenizer, for lists or for text.

A tokenizer's template that was saved beside a processor comes back as the processor's own, though it takes text and
would print a list of parts as Python does. So each form is tried, and one that leaves the question out is not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError

from flowcut.errors import InvalidQuestion


def in_template(
    processor: Any,
    medium: str,
    place: str,
    question: str,
    system: str | None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> str | None:
    """The prompt by the processor's template, else the tokenizer's; None where neither has one.

    Args:
        medium: `image` or `video`.
        place: the medium's place, for templates that take text.
        options: what the template is told besides.

    Raises:
        InvalidQuestion: the template refuses the prompt, or leaves question, picture or system prompt out.
    """
    parts = [{"type": medium}, {"type": "text", "text": question}], _part(system)
    text = f"{place}\n{question}", system
    if getattr(processor, "chat_template", None):
        return _filled(processor, (parts, text), question, system, options)
    if getattr(processor.tokenizer, "chat_template", None):
        return _filled(processor.tokenizer, (text, parts), question, system, options)
    return None


def check_system(prompt: str, system: str | None) -> None:
    """
    Raises:
        InvalidQuestion: the prompt does not hold the system prompt.
    """
    if system is not None and system not in prompt:
        raise InvalidQuestion("This model's chat template has no place for a system prompt: leave it out.")


def _part(system: str | None) -> list[dict[str, str]] | None:
    return None if system is None else [{"type": "text", "text": system}]


def _filled(
    owner: Any, forms: tuple[tuple[Any, Any], ...], question: str, system: str | None, options: Mapping[str, Any]
) -> str:
    refusal: Exception | None = None
    for content, told in forms:
        messages = [{"role": "user", "content": content}]
        if told is not None:
            messages.insert(0, {"role": "system", "content": told})
        try:
            text = str(owner.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options))
        except (TemplateError, TypeError, KeyError, ValueError) as error:  # it takes the other form
            refusal = refusal or error
            continue
        if question in text and "{'type': " not in text:
            check_system(text, system)
            return text
    if refusal is not None:
        raise InvalidQuestion(f"This model's chat template refuses the prompt: {refusal}.") from refusal
    raise InvalidQuestion("This model's chat template leaves the question out: choose another checkpoint of it.")
