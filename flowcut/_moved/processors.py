from flowcut.families.processors import *  # noqa: F403
