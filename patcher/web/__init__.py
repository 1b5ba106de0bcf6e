"""The only HTTP client, and what it trusts."""
