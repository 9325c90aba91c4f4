from flowcut.generation.prompt import *  # noqa: F403
