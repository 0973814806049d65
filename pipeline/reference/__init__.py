"""What can be written, asked and read? The pages of docs/reference/, made from the code.

Out come Markdown pages, the same for the same code: a key's meaning stands where the key is defined, as the text below
it, and nowhere else. Nothing heavy is loaded; files that would load something are read as text. `python -m
pipeline.reference` (`make reference`) writes the pages, and tests/reference/ holds those that are committed to it.
"""
