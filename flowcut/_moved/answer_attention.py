from flowcut.records.answer_attention import *  # noqa: F403
