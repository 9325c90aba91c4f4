from flowcut._moved import names_from

__getattr__ = names_from(__name__, "flowcut.hooks.attention", "flowcut.hooks.elsewhere", "flowcut.encoder.statistics")
