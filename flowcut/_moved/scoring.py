from flowcut.studies.scorer import *  # noqa: F403
