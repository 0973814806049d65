"""What does a row say? Alpaca's, ShareGPT's, messages, pairs and the rest become one of four kinds of example.

In comes a row's value, out comes an Example or the BadRow that says why not. No tokenizer is known here.
"""
