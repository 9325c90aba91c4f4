from flowcut.studies.prefix_cache import *  # noqa: F403
