"""Which rows are in a file? JSON, CSV, Parquet, Arrow and text, packed or not, here or on the hub.

In come paths, out go rows with their file and line, as a stream. What a row means is not known here.
"""
