"""How is a stage done? Inside a process of its own: its rows, its model, its trainer, its checkpoints, its manifest.

In comes a Job, out come an artifact and, on the way, events for whoever watches. `stage_run` is the story. What is shown, and
which stage comes next, is not known here.
"""
