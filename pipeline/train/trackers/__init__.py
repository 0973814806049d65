"""Who else is told how training goes? TensorBoard, W&B, and what transformers has an integration for.

In come the lines of log.jsonl, the figures before and after, samples, the recipe; out go a tracker's own records. How training
is done is not known here, and no tracker can stop it.
"""
