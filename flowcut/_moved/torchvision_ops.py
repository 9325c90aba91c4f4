from flowcut.media.torchvision_ops import *  # noqa: F403
