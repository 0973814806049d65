"""Which tokens is an example, and which of them are learned? By the model's chat template.

In come examples, out go token ids with labels, cut to length with every cut on record. Files are not known here.
"""
