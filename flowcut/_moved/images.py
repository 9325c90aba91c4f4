from flowcut.media.picture import *  # noqa: F403
