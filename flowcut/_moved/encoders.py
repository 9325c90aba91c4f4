from flowcut.encoder.locate import *  # noqa: F403
