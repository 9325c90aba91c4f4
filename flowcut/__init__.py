"""FlowCut Lens: run a vision-language model, see how information flows through it, prune its visual tokens.

Each public name is fetched from its module when it is first used: `import flowcut` brings in neither torch nor
transformers.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names in __init__.pyi
__all__ = [*__all__, "__version__"]
__path__.append(f"{__path__[0]}/_moved")  # modules of the first version, under their old names
