"""pytest --spillway PROGRAM --golden DIR: what is tested, and against which goldens."""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # golden_io, compare

import pytest  # noqa: E402

from golden_io import unquantised  # noqa: E402


def pytest_addoption(parser):
    root = HERE.parent.parent
    parser.addoption("--spillway", type=Path, default=root / "build" / "spillway")
    parser.addoption("--golden", type=Path, default=root / "build" / "golden")


def pytest_generate_tests(metafunc):
    """case: every case of every unquantised model. picture_case: those with messages."""
    cases = [(m, n, c) for m, cs in unquantised(metafunc.config.getoption("--golden")) for n, c in cs.items()]
    for fixture, wanted in (
        ("case", cases),
        ("bf16_case", [x for x in cases if x[0].endswith("-bf16")]),
        ("messages_case", [x for x in cases if "messages" in x[2]]),
    ):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, wanted, ids=[f"{m}-{n}" for m, n, _ in wanted])


@pytest.fixture(scope="session")
def golden(request):
    return request.config.getoption("--golden")


@pytest.fixture(scope="session")
def spillway(request):
    return request.config.getoption("--spillway").resolve()
