from flowcut.families.support import *  # noqa: F403
