from flowcut.records.studies import *  # noqa: F403
