from flowcut.hooks.attention import *  # noqa: F403
