"""What does it score on a benchmark? A policy and what it started from, asked by lm-eval, each result with its chance.

In comes a Subject and the names of tasks. `worker` is the process that asks; `evaluation` is its story. `harness` reads
lm-eval's tasks, `asked` hands it our model, and `artifact/benchmarks.py` keeps what was found. Only `harness` and `asked`
know lm-eval.
"""
