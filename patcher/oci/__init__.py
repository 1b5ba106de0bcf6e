"""Container images as values: references, manifests, layers, layouts; nothing here talks to a network."""
