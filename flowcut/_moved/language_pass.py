from flowcut.decoder.passes import *  # noqa: F403
