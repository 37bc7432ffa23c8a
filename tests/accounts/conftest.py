"""Fault rows: short in `make test`, at the stated size with SPILLWAY_FAULT=long (../sizes.py)."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from sizes import figure, size  # noqa: E402,F401
