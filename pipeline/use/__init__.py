"""What can I do with it? Talk to what was trained, serve it, merge it, export it, publish it; each export proves itself.

In comes a Subject: a stage of a recipe, or any adapter's or model's folder. `subject` finds it, `loaded` puts it into memory.
Nothing here is imported by what trains.
"""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as PEFT loads it, it complains of kernels nobody asked for
