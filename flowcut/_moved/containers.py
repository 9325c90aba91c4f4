from flowcut.media.containers import *  # noqa: F403
