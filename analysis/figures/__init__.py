"""Figures: `screen` draws with plotly, `paper` with matplotlib, from the same arrays; `style` is what they share."""
