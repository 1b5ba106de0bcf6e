"""The root file system that an image's layers make, and which vLLM runs in it."""
