"""How is a stage done? Inside a process of its own: its rows, its model, its trainer, its checkpoints, its manifest.

In comes a Job, out come an artifact and, on the way, events (listed in `job.events`) for whoever watches. `worker` is the
process, `stage_run` the story of what it does, `job` what it is asked, `loop` how weights are trained. What is shown, and which stage comes next, is not known here.
"""
