"""The attention function under our own name, and the probes that look inside it."""
