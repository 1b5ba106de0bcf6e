"""Commands that have a module of their own; `patcher.cli` registers them."""
