from flowcut._moved import names_from

__getattr__ = names_from(
    __name__, "flowcut_lens.analysis.causal", "flowcut_lens.analysis.agreement", renamed={"block_ranks": "block_mean"}
)
