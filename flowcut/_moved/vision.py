from flowcut.encoder.recording import *  # noqa: F403
