"""What does a row say? Alpaca's, ShareGPT's, messages, pairs and the rest become examples of a few kinds, each a
file in `kinds/`.

In comes a row's value, out comes an example or the BadRow that says why not. No tokenizer is known here.
"""
