"""What does a person write? One YAML file for a whole chain.

In comes the file, out goes a frozen Recipe, or every mistake in it with its line and the nearest right word. The fields of
TRL and PEFT stand in a list, so that neither has to be imported.
"""
