"""The parity generator: one module a section; ../make_golden.py runs them."""
