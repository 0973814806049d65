"""What is trained? The base by its identity, its tokenizer, the backend that loads it, and the adapter on it.

`base` and `backend` are light, for the plan asks them; `loader` and `tokenizer` load what they name, `saving` writes it. Rows are not known here.
"""
