from flowcut._moved import names_from

__getattr__ = names_from(__name__, "flowcut_lens.cli.main", "flowcut_lens.cli.ask", "flowcut_lens.cli.app")

if __name__ == "__main__":  # python -m flowcut.cli
    raise SystemExit(__getattr__("main")())
