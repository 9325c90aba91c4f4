"""Pictures and videos: opened, checked, and what was done to them said."""

from flowcut._moved import names_from

MOVED = ("Medium", "geometries", "kind_of", "open_medium", "processed")
__getattr__ = names_from(__name__, "flowcut.generation.medium", only=MOVED)
