"""Demos, data sets and example networks, run from a checkout: ``python -m examples.demo``."""
