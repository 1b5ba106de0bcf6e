"""images.lock: which image a name means, and what the registries say of it today."""
