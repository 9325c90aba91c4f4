"""Every pruning method by name. A new one is one function that ranks patches, and one line in `METHODS`."""

from __future__ import annotations

import re

from flowcut.criteria.approximation import apet, apet_joins, apet_layers, apet_states
from flowcut.criteria.controls import chosen, random, stride
from flowcut.criteria.coverage import otprune, scope
from flowcut.criteria.decoder import (
    dart,
    last_token_attention,
    pyramid_layers,
    rater_attention,
    second_layer,
    sparse_layers,
)
from flowcut.criteria.encoder import (
    IMPORTANT_SHARE,
    cls_attention,
    cls_attention_x_value,
    column_mean,
    is_contextual,
    visionzip,
    visionzip_joins,
    vispruner,
)
from flowcut.criteria.method import DecoderPlan, Method, Recipe
from flowcut.criteria.prior import priortr, third_layer
from flowcut.criteria.projector import divprune
from flowcut.criteria.quotas import holov, prunesid
from flowcut.criteria.setting import Setting
from flowcut.criteria.video import evs, vidcom2
from flowcut.errors import InvalidCut

DART_DIFFERS = (
    "The released DART is told how many tokens its 8 pivots add, each an eighth, and keeps 4 image pivots besides; "
    "here tokens counts all that stay, so that 196 here is its 192.",
)
DART_DIFFERS_UNDER = (
    (
        "paper",
        "The released DART goes through its pivots in the order of a Python set of their places, text pivots among "
        "image pivots; here the image pivots come first.",
    ),
)
FASTV_DIFFERS = (
    "The code of FastV's paper ranks the visual tokens anew for every answer token; its code with a key-value cache, "
    "and this one, rank once, for the first.",
)
HIPRUNE_DIFFERS_UNDER = (
    (
        "paper",
        "The released HiPrune counts an anchor's neighbours by index, across the edges of the grid, and takes the "
        "first or the last patch for what lies above or below it; here neighbours are those on the grid.",
    ),
)
VISIONZIP_DIFFERS_UNDER = (
    (
        "paper",
        "The released VisionZip hands the CLS token to the language model as one of its dominant tokens (of 64: CLS, "
        "53 patches, 10 merged), and merged tokens behind the others; here 54 patches and no CLS are dominant, and "
        "merged tokens stand at their own places.",
    ),
)
VISPRUNER_DIFFERS = (
    "Which of two patches that are almost equally alike goes is decided by rounding, and later rounds depend on it: "
    "the released code in half precision ends with other patches than in float64, in which this run compares.",
)
STEPS_DIFFER = ("The same share of the visual tokens goes at each step, so that T are left after the last one.",)
SPARSE_DIFFERS = (
    "The released SparseVLM has a table of counts for budgets that are means over layers; here the same share goes at "
    "each step, so that T are left after the last one.",
)
PRUNESID_DIFFERS = (
    "The released PruneSID counts the CLS token, which it hands on, as one of T; here T patches stay and no CLS token.",
    "The released PruneSID finds principal components by a randomised method, so that groups change from run to run; "
    "here they are exact.",
)
HOLOV_DIFFERS = (
    "Where a crop has fewer patches than its share, the released HoloV fills the budget up with zero tokens; here "
    "other crops take what is left.",
)
PRIORTR_DIFFERS = (
    "The released PriorTR asks, for LLaVA-1.5, the mean of all text tokens after the picture, and for LLaVA-NeXT the "
    "last one; here it is the last one for every model.",
)
APET_DIFFERS = (
    "The released ApET cuts once more in the language model; here then=Cut('apet-decoder', tokens) does.",
    "The released ApET begins farthest point sampling at a patch drawn at random; here it is the one farthest from the "
    "mean.",
    "The released ApET puts its basis patches in the places of the 10 weakest of those kept, and merges them into "
    "others besides; here they stay at their own places.",
)
APET_DECODER_DIFFERS = (
    "The released ApET merges here what it prunes, and puts its basis tokens in the places of the 10 weakest of those "
    "kept; here tokens are dropped, and basis tokens stay at their own places.",
    APET_DIFFERS[1].replace("a patch", "a token"),
)
EVS_DIFFERS = (
    "The paper compares pixels; here, as in vLLM and SGLang, tokens behind the projector are compared.",
    "vLLM keeps the first frame whole whatever the budget; here a budget smaller than it is refused.",
)
VIDCOM2_DIFFERS = (
    "The released VidCom2 rounds each frame's share by itself, so that the sum misses the budget; here what rounding "
    "leaves goes to the frames of largest remainder.",
)
SPARSE_DIFFERS_UNDER = (
    (
        "recycling off",
        "The released SparseVLM merges some of the pruned tokens into new ones (recycling), which changes what later "
        "steps keep; here they go.",
    ),
    (
        "recycling on",
        "Recycling is that of SparseVLM's version 1, whose merged tokens go on beside the T that were chosen; its "
        "noise, which parts tokens of equal density, is drawn with seed 0 for every picture.",
    ),
)
FLOWCUT = "FlowCut, arXiv 2505.19536 (NeurIPS 2025)"


def _ablation(label: str, recipe: Recipe) -> Method:
    left_out = {
        "each layer's own score": not recipe.cumulative,
        "CLS attention alone": not recipe.multi_criteria,
        "as many at every prune point": not recipe.adaptive,
    }
    said = ", ".join(part for part, out in left_out.items() if out)
    return Method(
        f"FlowCut, {label}", f"{FLOWCUT}, ablation: {said}", kind="ablation", recipe=recipe, has_variants=True
    )


METHODS: dict[str, Method] = {
    "flowcut": Method("FlowCut", FLOWCUT, kind="flowcut", recipe=Recipe(), has_variants=True),
    "random": Method(
        "Random", "control: a seeded draw that looks at nothing", kind="control", rank=random, takes_seed=True
    ),
    "stride": Method(
        "Stride", "control: evenly spaced patches that look at nothing", kind="control", rank=stride, ranks=False
    ),
    "cls-attention": Method(
        "CLS attention", "one layer's CLS row: that of the feature layer, as FasterVLM's and VisionZip's",
        rank=cls_attention, needs=("cls_attention",), takes_layer=True,
    ),
    "cls-attention-x-value": Method(
        "CLS attention x value",
        "one layer's CLS row times the norm of the values, as the released FlowCut code for Qwen scores",
        rank=cls_attention_x_value,
        needs=("cls_attention", "value_norm"),
        takes_layer=True,
    ),
    "column-mean": Method(
        "Column mean (HiPrune)",
        "HiPrune, arXiv 2508.00553, Method: anchor, buffer and register tokens by what all tokens attend to",
        rank=column_mean,
        needs=("middle_mean", "deep_mean"),
        takes_layer=True,
        default_layer="middle layer",
        has_variants=True,
        differs_under=HIPRUNE_DIFFERS_UNDER,
    ),
    "visionzip": Method(
        "VisionZip",
        "VisionZip, arXiv 2412.04467, Method: dominant tokens by CLS attention, the rest merged into contextual ones",
        rank=visionzip,
        needs=("cls_attention", "keys"),
        joins=visionzip_joins,
        has_variants=True,
        hands_cls=("official",),
        behind=is_contextual,
        differs_under=VISIONZIP_DIFFERS_UNDER,
    ),
    "vispruner": Method(
        "VisPruner",
        "VisPruner, arXiv 2412.01818 (ICCV 2025), Method: important tokens by CLS attention, then diverse ones",
        rank=vispruner,
        needs=("cls_attention", "features"),
        settings=(Setting("important_share", IMPORTANT_SHARE, "share of the budget that goes by CLS attention"),),
        differs=VISPRUNER_DIFFERS,
    ),
    "divprune": Method(
        "DivPrune",
        "DivPrune, arXiv 2503.02175 (CVPR 2025), Method: max-min diversity of the projected tokens",
        stage="projector",
        rank=divprune,
        needs=("features",),
    ),
    "cdpruner": Method(
        "CDPruner",
        "CDPruner, arXiv 2506.10967 (NeurIPS 2025), Method: a determinantal point process conditioned on the question",
        stage="projector",
        needs=("features", "text_tower"),
    ),
    "fastv": Method(
        "FastV",
        "FastV, arXiv 2403.06764 (ECCV 2024), Method: what the last token attends to in layer 1 (K = 2)",
        stage="decoder",
        needs=("last_attention",),
        decoder=DecoderPlan(second_layer, last_token_attention, keeps_positions=True),
        differs=FASTV_DIFFERS,
    ),
    "dart": Method(
        "DART",
        "DART, arXiv 2502.11494 (EMNLP 2025), Method: the tokens least like a few pivots, after layer 1 (K = 2)",
        stage="decoder",
        needs=("visual_keys", "text_keys", "visual_states", "text_states", "visual_rows", "text_rows"),
        has_variants=True,
        differs_under=DART_DIFFERS_UNDER,
        decoder=DecoderPlan(second_layer, dart, keeps_positions=True),
        differs=DART_DIFFERS,
    ),
    "pyramiddrop": Method(
        "PyramidDrop",
        "PyramidDrop, arXiv 2410.17247 (CVPR 2025), Method: before 1/4, 1/2 and 3/4 of the decoder's layers",
        stage="decoder",
        needs=("last_attention",),
        decoder=DecoderPlan(pyramid_layers, last_token_attention, looks_ahead=True),
        differs=STEPS_DIFFER,
    ),
    "sparsevlm": Method(
        "SparseVLM",
        "SparseVLM, arXiv 2410.04417 (ICML 2025), Method: text raters, after layers 2, 6, 15 of 32",
        stage="decoder",
        needs=("rater_attention",),
        decoder=DecoderPlan(sparse_layers, rater_attention),
        settings=(
            Setting("recycling", False, "merge the best pruned tokens into new ones, as in SparseVLM's version 1"),
        ),
        differs_under=SPARSE_DIFFERS_UNDER,
        differs=SPARSE_DIFFERS,
    ),
    "downsample": Method(
        "Downsample",
        "control: the picture at the resolution that gives as many patches",
        stage="picture",
        kind="control",
        ranks=False,
    ),
    "flowcut-equal": _ablation("equal counts", Recipe(adaptive=False)),
    "flowcut-attention": _ablation("attention only", Recipe(multi_criteria=False)),
    "flowcut-attention-equal": _ablation("attention only, equal counts", Recipe(multi_criteria=False, adaptive=False)),
    "flowcut-single": _ablation("single layer", Recipe(cumulative=False)),
    "flowcut-single-equal": _ablation("single layer, equal counts", Recipe(cumulative=False, adaptive=False)),
    "flowcut-single-attention": _ablation(
        "single layer, attention only", Recipe(cumulative=False, multi_criteria=False)
    ),
    "flowcut-single-attention-equal": _ablation(
        "single layer, attention only, equal counts", Recipe(False, False, False)
    ),
    "scope": Method(
        "SCOPE",
        "SCOPE, arXiv 2510.24214 (NeurIPS 2025), Method: coverage of all patches, weighed by CLS attention",
        rank=scope,
        needs=("cls_attention", "features"),
    ),
    "prunesid": Method(
        "PruneSID",
        "PruneSID, arXiv 2603.09480 (ICLR 2026), Method: groups by principal component, doubles last, a quota for each",
        rank=prunesid,
        needs=("cls_attention", "features"),
        differs=PRUNESID_DIFFERS,
    ),
    "apet": Method(
        "ApET",
        "ApET, arXiv 2602.19870 (CVPR 2026), Method: what a few patches cannot approximate stays, the rest is merged",
        rank=apet,
        needs=("features",),
        joins=apet_joins,
        merges_by_mean=True,
        differs=APET_DIFFERS,
    ),
    "holov": Method(
        "HoloV",
        "HoloV, arXiv 2510.02912 (NeurIPS 2025), Method: a share for each of 16 crops, by attention and contrast",
        stage="projector",
        rank=holov,
        needs=("cls_attention", "features"),
        has_variants=True,
        differs=HOLOV_DIFFERS,
    ),
    "otprune": Method(
        "OTPrune",
        "OTPrune, arXiv 2602.20205 (CVPR 2026), Method: the set whose distribution is closest to that of all tokens",
        stage="projector",
        rank=otprune,
        needs=("features",),
    ),
    "priortr": Method(
        "PriorTR",
        "PriorTR, arXiv 2606.24156 (ECCV 2026), Method: what the question adds to a prior blind to it, after layer 2",
        stage="decoder",
        needs=("last_attention", "prior_attention"),
        decoder=DecoderPlan(third_layer, priortr, keeps_positions=True),
        differs=PRIORTR_DIFFERS,
    ),
    "apet-decoder": Method(
        "ApET, second cut",
        "ApET, arXiv 2602.19870 (CVPR 2026), Method: the same inside the language model, before layer 16 of 32",
        stage="decoder",
        needs=("visual_hidden",),
        decoder=DecoderPlan(apet_layers, apet_states),
        differs=APET_DECODER_DIFFERS,
    ),
    "evs": Method(
        "EVS",
        "Efficient Video Sampling, arXiv 2510.14624 (as vLLM and SGLang serve): tokens unlike those one frame earlier",
        stage="projector",
        rank=evs,
        needs=("features", "n_frames"),
        of_videos=True,
        differs=EVS_DIFFERS,
    ),
    "vidcom2": Method(
        "VidCom2",
        "VidCom2, arXiv 2505.14454 (EMNLP 2025), Method: frames and tokens that stand out from the video",
        stage="projector",
        rank=vidcom2,
        needs=("features", "n_frames"),
        of_videos=True,
        differs=VIDCOM2_DIFFERS,
    ),
    "chosen": Method(
        "Chosen", "control: the patches that someone named", kind="control", rank=chosen, ranks=False,
        takes_patches=True,
    ),
}  # fmt: skip

OUR_OWN = frozenset(METHODS)
"""Names that nobody else can register."""


def methods() -> dict[str, str]:
    """Every method's name with the one line that says where it comes from."""
    return {name: method.source for name, method in METHODS.items()}


def known_method(name: str) -> Method:
    """The registry's line of this name.

    Raises:
        InvalidCut: (a ValueError) there is none.
    """
    if name not in METHODS:
        raise InvalidCut(
            f"The method is {name!r}: choose one of {', '.join(METHODS)}, or register it with flowcut.register_method."
        )
    return METHODS[name]


def register_method(name: str, method: Method) -> None:
    """Add a method of your own: from then on it is one of `flowcut.methods()`, for every cut, study and page.

    ```python
    def far_from_cls(evidence, cut):
        return -evidence.cls_attention      # float64 [B, N]; the T highest stay

    flowcut.register_method(
        "far-from-cls",
        flowcut.Method("Far from CLS", "mine: what CLS looks at least", rank=far_from_cls, needs=("cls_attention",)),
    )
    flowcut.ask(model, image, question, flowcut.Cut("far-from-cls", tokens=64))
    ```

    A name that you registered before is replaced, so that a notebook's cell can be run again; those of the methods here
    cannot be.

    Raises:
        InvalidCut: (a ValueError) the name is taken or no name, or the method lacks what its stage needs.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise InvalidCut(
            f"The method's name is {name!r}: give lower-case words joined by hyphens, such as 'my-method'."
        )
    if name in OUR_OWN:
        raise InvalidCut(f"{name!r} is a method of flowcut already: choose another name.")
    if not isinstance(method, Method):
        raise InvalidCut(f"{name!r} is registered as a {type(method).__name__}: give a flowcut.Method.")
    try:
        method.check()
    except InvalidCut as error:
        raise InvalidCut(f"{name!r} cannot be registered. {error}") from error
    METHODS[name] = method


def forget_method(name: str) -> None:
    """Take a method that was registered out again; nothing happens where there is none.

    Raises:
        InvalidCut: (a ValueError) it is one of the methods here.
    """
    if name in OUR_OWN:
        raise InvalidCut(f"{name!r} is a method of flowcut: only what was registered can be forgotten.")
    METHODS.pop(name, None)
