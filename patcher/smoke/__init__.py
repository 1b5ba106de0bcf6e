"""What a real engine generates: a running server's, an image's, an interpreter's."""
