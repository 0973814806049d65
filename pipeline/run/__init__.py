"""Who does it? One command: plan, then one process a stage, then what was learned; a stage with both
backends, and a trial of methods.

In come a recipe's path and the goals, out comes an exit code.
"""
