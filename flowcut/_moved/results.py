from flowcut.records.run import *  # noqa: F403
