"""Recording and pruning inside the vision encoder."""
