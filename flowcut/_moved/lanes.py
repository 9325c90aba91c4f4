from flowcut._moved import names_from

RENAMED = {"Lane": "PruneGroup", "Plan": "EncoderPlan", "View": "LayerInputs"}
__getattr__ = names_from(__name__, "flowcut.encoder.prune_group", "flowcut.encoder.plan", renamed=RENAMED)
