from flowcut._moved import names_from

__getattr__ = names_from(__name__, "flowcut.encoder.recording", "flowcut.encoder.notes")
