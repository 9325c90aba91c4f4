from flowcut._moved import names_from

RENAMED = {"Pass": "EncoderPass"}
__getattr__ = names_from(__name__, "flowcut.encoder.passes", renamed=RENAMED)
