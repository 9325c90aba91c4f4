from flowcut.generation.ask import *  # noqa: F403
