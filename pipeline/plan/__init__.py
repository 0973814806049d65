"""What would be done, and why? A stage is new when what goes into it is new: its inputs are hashed, and the hash is
the name of its artifact. Take three runs of one recipe:

    sft(lr 1e-4) -> dpo(beta 0.1)      both are trained
    sft(lr 1e-4) -> dpo(beta 0.2)      sft is up to date, dpo is trained
    sft(lr 2e-4) -> dpo(beta 0.2)      both are trained: dpo's parent is another

In come a recipe and the folder runs/, out go Steps. Neither torch nor a network is needed, and nothing is written but a
cache of digests. `inputs` is the list of what counts, `decisions` what follows from it.
"""
