from flowcut.decoder.spans import *  # noqa: F403
