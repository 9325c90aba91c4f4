"""Put the trained parts together as a plain LLaVA folder that the stock Auto classes load.

    python -m training.build --run training/runs --out assets/embedded
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from training.config import VISION, llava_config
from training.text import CHAT_TEMPLATE

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
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(llava_config(len(tokenizer), image_token_id, special))
    model.generation_config = GenerationConfig(**special)
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    side = VISION.image_size
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=VISION.patch_size,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def save_folder(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path, facts: dict[str, Any]) -> None:
    """Write everything beside `out` and move it there, so that a half-written model is never seen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=".embedded-"))
    model.eval().save_pretrained(partial)
    processor(tokenizer).save_pretrained(partial)
    (partial / "README.md").write_text(CARD)
    (partial / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    out.chmod(0o755)


def assemble(run: Path, part: str) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast, dict[str, Any]]:
    """The model of a run's joint checkpoint (`part`.pt)."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run / "tokenizer")
    model = empty_llava(tokenizer)
    state = torch.load(run / f"{part}.pt", weights_only=True)
    model.load_state_dict(state["model"])
    return model, tokenizer, {"seconds": state["seconds"], "steps": state["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("training/runs"))
    parser.add_argument("--part", default="joint")
    parser.add_argument("--out", type=Path, default=Path("assets/embedded"))
    arguments = parser.parse_args()
    save_folder(*assemble(arguments.run, arguments.part)[:2], arguments.out, assemble(arguments.run, arguments.part)[2])


if __name__ == "__main__":
    main()
