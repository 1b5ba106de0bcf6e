"""The Docker daemon, through its SDK: its images, and builds on top of them."""
