from flowcut.decoder.to_record import *  # noqa: F403
