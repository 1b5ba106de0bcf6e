"""Upstream's fixed function, merged into the one that an image has."""
