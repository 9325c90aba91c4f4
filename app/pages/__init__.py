"""One module for each page; each reads like a table of contents."""
