"""Fault rows: short in `make test` (1 % of the stated count, or 5 s), at the stated size with SPILLWAY_FAULT=long (`make fault-long`)."""
import os

import pytest


def long_run():
    return os.environ.get("SPILLWAY_FAULT") == "long"


@pytest.fixture
def size():
    """size(short, long): the count or bound of this run."""
    return lambda short, long: long if long_run() else short


@pytest.fixture
def figure(record_property, capsys):
    """figure(name, value, unit): a measured figure, printed whether the test passes or not."""
    def say(name, value, unit=""):
        record_property(name, value)
        with capsys.disabled():
            print(f"\n    {name}: {value:.4g} {unit}" if isinstance(value, float) else f"\n    {name}: {value} {unit}", end="", flush=True)
    return say
