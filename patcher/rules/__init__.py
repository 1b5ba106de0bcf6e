"""What can be wrong in a source file, how it is mended, and how the mend is proven."""
