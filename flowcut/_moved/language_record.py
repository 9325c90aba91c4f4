from flowcut.records.language import *  # noqa: F403
