"""Fault rows: short in `make test`, at the stated size with SPILLWAY_FAULT=long (sizes.py)."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # serving.py, sizes.py
from sizes import figure, long_run, size  # noqa: E402,F401


@pytest.fixture(scope="session")
def fake_providers():
    from fake_provider import FakeProvider
    with FakeProvider() as p:
        yield p


@pytest.fixture
def fake(fake_providers):
    """The hosted providers of the tests' own (fake_provider/), without script, prices or memory of an earlier test."""
    fake_providers.reset()
    yield fake_providers
    assert not fake_providers.server.bugs, fake_providers.server.bugs.pop()
