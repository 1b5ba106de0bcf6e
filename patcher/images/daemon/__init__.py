"""Images in a Docker daemon, which builds the thin layer itself."""
