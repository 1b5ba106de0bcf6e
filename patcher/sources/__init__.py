"""Where a file of vLLM is read: a path, a clone, a wheel, an index, an image. One file each."""
