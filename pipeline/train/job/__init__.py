"""What is asked of a stage's process, and on what machine? The job as it travels and as it is found, and what is told of it.

In comes a Job, out comes a CheckedJob: inputs hashed again, threads, device and backend agreed on. Training is not known here.
"""
