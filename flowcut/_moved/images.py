from flowcut._moved import names_from

__getattr__ = names_from(__name__, "flowcut.media.picture", "flowcut.media.decoders", renamed={"DECODERS": "USUAL"})
