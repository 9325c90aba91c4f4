"""The command line, above the library and its figures."""
