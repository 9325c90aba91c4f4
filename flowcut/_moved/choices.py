from flowcut.studies.one_shot import *  # noqa: F403
