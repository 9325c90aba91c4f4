from flowcut.models.torchvision_ops import *  # noqa: F403
