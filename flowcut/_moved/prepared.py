from flowcut.generation.prepared import *  # noqa: F403
