"""One question from picture to answer."""
