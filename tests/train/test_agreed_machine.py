"""The machine of a stage, as its process finds it."""

import gc

from pipeline.train.job.machine import importing, shares


def test_garbage_is_collected_again_after_imports():
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            some = [[] for _ in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(some)
    finally:
        gc.unfreeze()


def test_each_number_of_processes_has_the_steps_that_it_made():
    two, one, machines = {"processes": 2}, {"processes": 1}, {"processes": 2, "nodes": 2}
    assert shares(two, two, 4) == []
    by_two = {"until": 4, "processes": 2, "nodes": 1}
    assert shares(two, one, 4) == [by_two]
    then = one | {"earlier": [by_two]}
    assert shares(then, two, 9) == [by_two, {"until": 9, "processes": 1, "nodes": 1}]
    assert shares(then, one, 9) == [by_two]
    assert shares(then, two, 4) == []  # one process came to no checkpoint
    assert shares(then, machines, 3) == [by_two | {"until": 3}]  # the last checkpoint was lost
    assert shares(machines, two, 4) == [{"until": 4, "processes": 2, "nodes": 2}]
