"""Artifacts that were made before are up to date after: what goes into a fingerprint does not change unnoticed."""

import json
from pathlib import Path

import pytest
from conftest import attempt

from pipeline.artifact.digests import difference, fingerprint

# Written by version 0.1.0. Whoever means to change it says so in CHANGELOG.md: every artifact is then made again.
KEPT = json.loads((Path(__file__).parent / "inputs.json").read_text())
OF_WEIGHTS = ("policy", "reward", "base")  # which differ in their last bits from machine to machine


@pytest.mark.parametrize("stage", KEPT)
def test_what_goes_into_a_fingerprint_is_what_it_was(chain, stage):
    now = json.loads((attempt(chain, stage) / "inputs.json").read_text())
    changed = [one for one in difference(KEPT[stage], now) if not one.startswith(OF_WEIGHTS)]
    assert now.keys() == KEPT[stage].keys() and not changed, f"{stage}: {changed}"


def test_the_name_of_an_artifact_is_what_it_was():
    assert fingerprint(KEPT["pretrain"]) == "d78e66f9eb78"  # no weights stand below it


def test_a_key_that_is_left_out_differs_from_one_that_is_null():
    assert list(difference({"a": None}, {})) == ["a: null -> left out"]
    assert list(difference({}, {"a": {"b": 1}})) == ['a: new, {"b": 1}']
