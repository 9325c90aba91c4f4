from flowcut._moved import names_from

__getattr__ = names_from(__name__, "flowcut_lens.cli.studies", "flowcut_lens.cli.causal", "flowcut_lens.cli.compare")
