"""Measurements on real files: `make bench`. Each figure is a ratio within one run."""
