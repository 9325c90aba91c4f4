from flowcut.decoder.kept_rows import *  # noqa: F403
