"""Put the trained parts together as a plain LLaVA folder that the stock Auto classes load.

python -m training.build --run training/runs --out assets/embedded
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from training.config import VISION, llava_config
from training.text import CHAT_TEMPLATE, special_ids

EMBEDDED = Path("assets/embedded")

CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# FlowCut Lens, embedded model

A LLaVA of 4.1 million parameters, trained from scratch on drawn scenes by `training/` of this repository. It answers
questions about such scenes (colours, shapes, sizes, places, counts, relations, cards) and knows nothing else: not
photographs, not other words. Classes, geometry and prompt are those of LLaVA-1.5.
"""


def empty_llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    special = special_ids(tokenizer)
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image_token_id, int), "one token, one id"
    model = LlavaForConditionalGeneration(llava_config(len(tokenizer), image_token_id, special))
    model.generation_config = GenerationConfig.from_dict(special)
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    side = VISION.image_size
    assert isinstance(side, int), "square pictures"
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=VISION.patch_size,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def save_folder(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path, facts: dict[str, Any]
) -> None:
    """Write everything beside `out` and move it there, so that a half-written model is never seen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=".embedded-"))
    model.eval().save_pretrained(partial)
    processor(tokenizer).save_pretrained(partial)
    (partial / "README.md").write_text(CARD)
    (partial / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone; the container runs as somebody else
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    out.chmod(0o755)
