"""What is kept? Attempts at stages in runs/, found again under the hash of what went into them.

In come files and plain values, out go digests, manifests and locks. It does not know what a recipe or a model is.
"""
