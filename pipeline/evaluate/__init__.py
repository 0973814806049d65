"""Was it worth it? Held-out figures, computed by the same code before, during and after training.

In come a model, a tokenizer and held-out rows, out come Figures. It gives every random state back as it found it.
"""
