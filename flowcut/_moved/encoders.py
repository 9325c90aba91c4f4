from flowcut._moved import names_from

__getattr__ = names_from(__name__, "flowcut.encoder.locate", "flowcut.hooks.model_facts")
