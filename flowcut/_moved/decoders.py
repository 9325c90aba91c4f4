from flowcut.decoder.locate import *  # noqa: F403
