import sys

from flowcut._moved import RecordModule, names_from

RENAMED = {"TWIN_FIELDS": "NEAREST_KEPT_FIELDS"}
__getattr__ = names_from(__name__, "flowcut.records.vision", renamed=RENAMED)
sys.modules[__name__].__class__ = RecordModule
