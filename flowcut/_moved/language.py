from flowcut.decoder.recording import *  # noqa: F403
