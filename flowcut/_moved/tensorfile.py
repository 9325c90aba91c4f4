from flowcut.records.tensor_file import *  # noqa: F403
