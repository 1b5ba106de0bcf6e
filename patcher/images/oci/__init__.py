"""Images as OCI describes them: manifests, layers, layouts; appending a layer, and checking it."""
