"""One module for each page; each reads like a table of contents.

Not called `pages`: Streamlit would serve the files of a folder of that name beside the main script by itself.
"""
