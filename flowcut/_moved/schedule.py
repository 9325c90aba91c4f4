from flowcut.cut import *  # noqa: F403
