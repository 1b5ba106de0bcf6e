"""An attribute that may be missing is read behind a guard."""
