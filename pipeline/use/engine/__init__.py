"""Who answers? Requests in, as token ids; text out, as it comes. What asks knows neither torch nor batches.

`request` is the interface, `engine` the one behind it here: a thread that answers with transformers, the requests of
a policy in one batch that others join and leave at any token (`lane`). Its arithmetic is in `cache` and `sampling`,
tokens become text in `text`.
"""
