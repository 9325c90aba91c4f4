"""DeepSeek-VL with one tower, and the hybrid with two: padded squares, and each patch one token."""

from __future__ import annotations

import torch

import flowcut
from tests import tiny_gemma
from tests.families.laws import CUTS, Laws, model, processor


class TestDeepseekVL(Laws):
    kind = "DeepseekVL"


class TestDeepseekVLHybrid(Laws):
    kind = "DeepseekVLHybrid"

    def test_sams_feature_at_a_patch_goes_with_it(self) -> None:
        """The tokens, rebuilt from what left both towers."""
        inputs, parts, left = self.asked("@ what?"), self.model.model, []
        hook = parts.vision_model.register_forward_hook(lambda m, a, out: left.append(out.last_hidden_state))
        with flowcut.prune(self.model, CUTS[0]) as session:
            tokens = session.prepare(inputs)["mm_encoder_outputs"]["image"].pooler_output[0]
        hook.remove()
        with torch.no_grad():
            high = parts.get_high_res_image_features(inputs["high_res_pixel_values"]).last_hidden_state
            kept = session.record.kept_patch_ids[0]
            torch.testing.assert_close(tokens, parts.aligner(left[0], high[:, kept])[0], atol=1e-5, rtol=1e-5)
        assert any("SAM tower is not recorded" in note for note in session.record.notes)


def test_the_prompt_is_that_of_the_template() -> None:
    family = flowcut.families.family_of(model("DeepseekVL").config)
    own = processor("DeepseekVL")
    text = family.prompt(own, "Who?", None)
    assert text.endswith("natural language.\n\nUser: <image>Who?\n\nAssistant:")
    own = tiny_gemma.processor("DeepseekVL")
    own.chat_template = None
    assert family.prompt(own, "Who?", None) == "User: <image>Who?\n\nAssistant:"
