"""Container images as values: references, manifests, layers, layouts. No network here."""
