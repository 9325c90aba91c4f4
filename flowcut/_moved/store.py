from flowcut.records.store import *  # noqa: F403
