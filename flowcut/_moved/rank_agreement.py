from flowcut.studies.rank_agreement import *  # noqa: F403
