from flowcut.media.source import *  # noqa: F403
