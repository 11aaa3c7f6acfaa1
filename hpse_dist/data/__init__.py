"""Collections on disk, the pairs mined from them, and the loader that reads them."""
