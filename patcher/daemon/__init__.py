"""The Docker daemon, through its SDK: images that it has, and builds upon them."""
