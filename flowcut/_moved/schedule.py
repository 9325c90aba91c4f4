from flowcut._moved import names_from

RENAMED = {"alive_after": "kept_after", "asked_count": "requested_count"}
__getattr__ = names_from(__name__, "flowcut.cut", "flowcut.criteria.flowcut", "flowcut.encoder.locate", renamed=RENAMED)
