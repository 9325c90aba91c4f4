"""Where the answers came from: mask, relay graph and concentration, moved together by one layer control."""


def flow() -> None: ...
