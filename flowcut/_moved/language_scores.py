from flowcut.decoder.evidence import *  # noqa: F403
