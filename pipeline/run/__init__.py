"""Who does it? One command: plan, then one process a stage, then what was learned; and a stage with both backends.

In come a recipe's path and the goals, out comes an exit code.
"""
