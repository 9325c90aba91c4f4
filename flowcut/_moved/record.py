from flowcut.records.vision import *  # noqa: F403
