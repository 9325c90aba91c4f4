"""Recording and pruning inside the language model, with the same words as in `flowcut.encoder`."""
