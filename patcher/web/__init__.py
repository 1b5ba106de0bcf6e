"""The only HTTP client there is, and what it trusts."""
