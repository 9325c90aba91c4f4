from flowcut.encoder.to_record import *  # noqa: F403
