"""How is a prompt run once for the two answers of a pair?

`layout` puts a pair into one sequence, `forward` runs it and hands the trainer what it would have got of two, `fit` says
where that is right and where it pays. What is trained is the same; TRL's losses are not touched.
"""
