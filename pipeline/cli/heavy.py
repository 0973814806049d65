"""Before a command imports what loads models."""


def import_quietly(bitsandbytes: bool) -> None:
    """Import transformers without its progress bars and reports; bitsandbytes, which takes seconds, only where it is needed."""
    from pipeline.train.job.machine import before_imports

    before_imports(bitsandbytes)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
