"""The machine of a stage, as its process finds it."""

import gc
import importlib
from importlib import metadata
from importlib.util import find_spec

import pytest

from pipeline.ranks import Ranks
from pipeline.train.job.job import Job
from pipeline.train.job.machine import importing, leaving_out, shares
from pipeline.train.worker import _failure


def test_garbage_is_collected_again_after_imports():
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            some = [[] for _ in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(some)
    finally:
        gc.unfreeze()


def test_what_is_installed_is_looked_through_once_and_anew_afterwards(monkeypatch):
    """transformers and TRL each ask which packages there are, which reads the files of all of them."""
    looked = []
    monkeypatch.setattr(metadata, "packages_distributions", lambda: looked.append(1) or {})
    with importing():
        assert metadata.packages_distributions() == metadata.packages_distributions() == {}
    assert len(looked) == 1
    metadata.packages_distributions()
    assert len(looked) == 2
    gc.unfreeze()


def test_what_is_left_out_of_the_imports_is_there_afterwards(tmp_path, monkeypatch):
    """A user's reward function may want what no stage does."""
    (tmp_path / "seldom_wanted.py").write_text("VALUE = 1\n")
    (tmp_path / "wanted_before.py").write_text("VALUE = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = importlib.import_module("wanted_before")
    with leaving_out(["seldom_wanted", "wanted_before", "never_installed"]):
        assert find_spec("seldom_wanted") is None
        with pytest.raises(ImportError):
            importlib.import_module("seldom_wanted")
        assert importlib.import_module("wanted_before") is before
    assert importlib.import_module("seldom_wanted").VALUE == 1
    assert find_spec("never_installed") is None


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


def test_what_the_network_and_torch_say_of_several_processes_stays_in_the_log():
    job = Job("r.yaml", [], "runs", "sft", "runs/r/sft/1", "1", "run", processes=2)
    gone = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711"
    unused = "Expected to have finished reduction ... has parameters that were not used in producing loss. You can enable ..."
    for said, meant in ((gone, "lost another one"), (unused, "had no part in a step's loss")):
        told = _failure(job, RuntimeError(said), Ranks(1, 2))
        assert meant in told["what"] and "process 2 of 2" in told["what"] and "stage-2.log" in told["fix"]
        assert "gloo" not in str(told) and "Expected" not in str(told)
