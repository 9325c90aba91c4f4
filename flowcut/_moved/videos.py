from flowcut.media.video import *  # noqa: F403
