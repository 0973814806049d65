"""What is a response worth? A reward model on the policy's own base, functions of a file, and verifiable ones that are built in.

`verifiable` stands low in the house and knows only texts: a recipe names what is in it. The rest scores what a policy said, for
every stage that trains on rewards, and tells in plain words what goes wrong; it knows no trainer.
"""
