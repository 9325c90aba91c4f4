"""What was measured and how to measure it again; results lie beside the scripts as JSON and Markdown."""
