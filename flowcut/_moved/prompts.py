from flowcut.generation.drop_tokens import *  # noqa: F403
