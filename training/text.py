"""Words: the corpus, the tokenizer that is trained on it, and the small errors that questions of real people have."""

from __future__ import annotations

import string
from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from flowcut_lens.scenes.questions import KINDS, sample
from flowcut_lens.scenes.world import CHARACTERS
from training.objects import random_objects

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
PROMPT_START, PROMPT_END = "USER: ", " ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %} {% endif %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The turns of LLaVA-1.5."""


def corpus(rng: np.random.Generator, n_scenes: int) -> Iterator[str]:
    for _ in range(n_scenes):
        objects = random_objects(rng)
        for kind in KINDS:
            question = sample(objects, kind, rng)
            if question is not None:
                yield question.text
                yield misspell(question.text, rng, 0.05)
                yield " " + question.answer
        yield PROMPT_START + "\n" + PROMPT_END


def train_tokenizer(seed: int = 0, vocab_size: int = 800, n_scenes: int = 3000) -> PreTrainedTokenizerFast:
    """Byte-level BPE in lower case; a card's capital letter standing alone stays a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[a-z]+| ?[0-9]| ?[^\sa-z0-9]|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(np.random.default_rng(seed), n_scenes), trainer)
    letters = [c for c in CHARACTERS if c.isalpha()]
    tokenizer.add_tokens([AddedToken(c, single_word=True, normalized=False) for c in letters])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
    )


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids that configurations name."""
    named = {
        "bos_token_id": tokenizer.bos_token,
        "eos_token_id": tokenizer.eos_token,
        "pad_token_id": tokenizer.pad_token,
    }
    vocabulary = tokenizer.get_vocab()
    return {name: vocabulary[str(token)] for name, token in named.items()}


def misspell(text: str, rng: np.random.Generator, rate: float) -> str:
    """Swap, drop, double or mistype letters, each with probability `rate`."""
    letters = list(text)
    for position in np.flatnonzero(rng.random(len(letters)) < rate):
        kind = int(rng.integers(4))
        if not letters[position].isalpha() or letters[position].isupper():
            continue
        if kind == 0 and position + 1 < len(letters):
            letters[position], letters[position + 1] = letters[position + 1], letters[position]
        elif kind == 1:
            letters[position] = ""
        elif kind == 2:
            letters[position] *= 2
        else:
            letters[position] = string.ascii_lowercase[int(rng.integers(26))]
    return "".join(letters)


def as_people_type(text: str, rng: np.random.Generator) -> str:
    """A question as it may come: now and then misspelt, in lower case, without its full stop or question mark."""
    if rng.random() < 0.2:
        text = misspell(text, rng, 0.04)
    if rng.random() < 0.3:
        text = text.rstrip("?.")
    return text
