"""Guarantees below 1: certificates of trained networks, every constant counted."""
