from flowcut.encoder.statistics import *  # noqa: F403
from flowcut.hooks.attention import *  # noqa: F403
from flowcut.hooks.elsewhere import *  # noqa: F403
