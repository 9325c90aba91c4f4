from flowcut.generation.question_text import *  # noqa: F403
