from flowcut.generation.session import *  # noqa: F403
