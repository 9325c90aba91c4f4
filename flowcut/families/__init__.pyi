"""The public names of this package, each from its home; `__init__.py` reads them from here."""

from .registry import FAMILIES as FAMILIES
from .registry import family_of as family_of
from .registry import names_of_video_families as names_of_video_families
from .registry import unsupported as unsupported
