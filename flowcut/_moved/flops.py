from flowcut.generation.flops import *  # noqa: F403
