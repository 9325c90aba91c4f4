from flowcut._moved import names_from

RENAMED = {"Survivors": "KeptRows", "survivors_of": "kept_rows_of"}
__getattr__ = names_from(__name__, "flowcut.decoder.kept_rows", renamed=RENAMED)
