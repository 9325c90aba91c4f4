"""One small adapter per model family: where its parts are, how its prompt reads, how patches lie on the picture.

Each name is fetched when it is first used.
"""

import lazy_loader

from flowcut.media.torchvision_ops import declare_missing_operators

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names in __init__.pyi

declare_missing_operators()  # before transformers looks for torchvision
