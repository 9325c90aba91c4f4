from flowcut.records.mask_picture import *  # noqa: F403
