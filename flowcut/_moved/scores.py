from flowcut.criteria.flowcut import *  # noqa: F403
