from flowcut.encoder.prune_group import *  # noqa: F403
