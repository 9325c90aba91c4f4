"""FlowCut Lens: run a vision-language model, see how information flows through it, prune its visual tokens.

Each public name is fetched from its module when it is first used: `import flowcut` brings in neither torch nor
transformers. `help(flowcut.ask)` says more on a name. The public names:

    load                 Load a model and its processor.
    ask                  Ask a question about a picture or a video, with or without a cut.
    Generation           How an answer is generated: sampling, length, system prompt.
    VisionLanguageModel  A model ready to be asked.
    refusals             Which methods a model does not allow, and why.
    open_picture         Open a picture from a path, a URL, bytes, a PIL image, an array or a tensor.
    open_video           Open a video from a path, a URL, bytes, pictures, an array or a tensor.
    Picture              A picture as it is shown and asked about.
    Video                A video as it is shown and asked about.

    FlowCut              A cut by FlowCut, as released or as the paper has it.
    Cut                  A cut by any method, by its name.
    CutConfig            What both give: which visual tokens to keep.
    methods              Every method's name and where it comes from.
    register_method      Add a method of your own.
    Method               What a method is.
    DecoderPlan          Where a method cuts inside the language model.
    Evidence             What a method sees of a vision encoder.
    DecoderEvidence      What a method sees of a decoder.

    prune                Prune the pictures of a stock model inside a `with`.
    record               Record, and with a cut prune, what a stock vision encoder does inside a `with`.
    record_language      Record, and with a cut prune, what a stock decoder does inside a `with`.
    Recording            What `record` gives; its `record` is the last pass.
    LanguageRecording    What `record_language` gives.
    AnswerRecording      Records the attention of every answer token.

    Run                  One answered question, with all that is known about it.
    AnswerToken          One token of an answer.
    Times                Seconds of each stage.
    Flops                Floating-point operations of each stage.
    FlowRecord           What one pass through a vision encoder showed.
    LayerFlow            The flow of information through one vision layer.
    PruneStep            One prune point that was reached.
    Geometry             From patches to pixels of the original picture.
    LanguageRecord       What a cut inside a language model did.
    AnswerAttention      What each token of an answer attended to.
    save_run             Keep a run in a folder.
    load_run             Read a run's folder.

    compare_methods      The same question under several cuts.
    rank_patches         What each method ranks the patches by.
    sweep                The answer's probability under many cuts.
    smallest_budget      The fewest tokens with which a method keeps the answer.
    sampled_subsets      What each block adds to the answer among random sets of a budget's size.
    knock_out            The answer without each block of patches, and with it alone.
    knock_out_objects    The answer without each object, in the picture and in the tokens.
    deletion_insertion   The answer with a ranking's highest patches removed, and alone.
    AnswerScorer         One answer, scored under any choice of patches.
    AnswerScores         How probable an answer is under several choices of patches.
    MethodResult         One method's part of `compare_methods`.
    PatchRanking         One method's part of `rank_patches`.
    SweepPoint           One cut's part of `sweep`.
    SmallestBudget       What `smallest_budget` finds.
    SubsetEffects        What `sampled_subsets` finds.
    KnockOut             What `knock_out` finds.
    ObjectKnockOut       One object's part of `knock_out_objects`.
    RemovalCurves        One ranking's part of `deletion_insertion`.

    FlowCutError         What every error below is: something given to flowcut cannot be used.
    InvalidCut           A cut that cannot be carried out.
    InvalidPicture       A picture or video that cannot be opened or used.
    InvalidQuestion      A question that cannot be put to a model.
    InvalidRecord        A record or run file that is damaged or not one of ours.
    ModelNotLoaded       A model that is not supported, not complete, or cannot be reached.
"""

import lazy_loader

__version__ = "0.1.0"

# There is no `__all__`: with one, `help(flowcut)` prints every class and function in full, over two thousand lines.
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)  # the names in __init__.pyi
__path__.append(f"{__path__[0]}/_moved")  # modules of the first version, under their old names
