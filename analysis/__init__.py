"""From flow records to numbers, graphs and figures. Knows no model and no web page."""
