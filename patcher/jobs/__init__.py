"""The jobs: bake and publish an image, patch a file in place, show the whole flow."""
