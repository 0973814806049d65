"""How does a recipe begin?

In come another tool's file, or a model, data and a goal; out comes the text of a recipe, with what is to be known of it.
It trains nothing, asks no questions (cli/ does) and writes no file.
"""
