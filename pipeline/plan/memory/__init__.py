"""What does a stage need on a GPU? Reckoned from the model's config.json and the recipe, without torch and without a network.

In come a recipe, a stage of it and the config of its base, from which `of_recipe` makes a `setting`; out comes a `Need`: bytes
by part, for each thing that a stage does (a training step, an update, an evaluation, a rollout), of which the largest counts.
`shape` knows the architectures, `weights`, `tuned`, `optimizer`, `activations` and `loss` a part each, `stage_need` puts them
together; `card` is what it is held against, `fit` what would make it smaller, and `room` what the rest of the card is good
for. How well it knows: benchmarks/memory.py.
"""
