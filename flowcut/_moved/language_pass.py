from flowcut._moved import names_from

RENAMED = {"Pass": "DecoderPass", "Stage": "Segment"}
__getattr__ = names_from(__name__, "flowcut.decoder.passes", "flowcut.decoder.segment", renamed=RENAMED)
