"""How are weights trained? TRL's trainers, made to save, resume, order their rows and report as every stage does.

In comes a Context (model, rows, arguments), out comes a trainer. Whose stage it is, and what is written of it, is not known here.
"""
