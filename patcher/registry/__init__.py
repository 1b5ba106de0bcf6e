"""A registry, by the OCI distribution API."""
