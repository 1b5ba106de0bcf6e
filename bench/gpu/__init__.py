"""The proof on a GPU: see docs/evidence.md."""
