from flowcut.generation.outside_encoder import *  # noqa: F403
