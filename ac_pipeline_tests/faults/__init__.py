"""Faults, on scripted ports and on real services: what breaks in the middle, and what is left of it."""
