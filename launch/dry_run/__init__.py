"""Compiles the programs of a config for a TPU slice, on a machine that has none."""
