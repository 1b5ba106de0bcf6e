"""Images in a registry, spoken to without a daemon: reading, logging in, publishing."""
