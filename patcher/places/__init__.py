"""Where a patched image goes: a registry, an OCI layout, a Docker daemon."""
