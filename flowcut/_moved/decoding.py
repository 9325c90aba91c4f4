from flowcut.decoder.answer_recording import *  # noqa: F403
