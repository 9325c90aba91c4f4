from flowcut.decoder.passes import *  # noqa: F403
from flowcut.decoder.segment import *  # noqa: F403
