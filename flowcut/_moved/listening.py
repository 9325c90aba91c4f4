from flowcut.generation.observer import *  # noqa: F403
