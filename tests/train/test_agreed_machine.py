"""The machine of a stage, as its process finds it."""

import gc

from pipeline.train.job.machine import importing


def test_garbage_is_collected_again_after_imports():
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            some = [[] for _ in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(some)
    finally:
        gc.unfreeze()
