from flowcut.encoder.passes import *  # noqa: F403
