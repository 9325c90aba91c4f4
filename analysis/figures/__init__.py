"""Figures: `screen` draws with plotly, `paper` with matplotlib, both from the same arrays; `style` holds what they share."""
