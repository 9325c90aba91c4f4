from flowcut.models.memory import *  # noqa: F403
