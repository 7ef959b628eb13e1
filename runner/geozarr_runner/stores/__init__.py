"""Stores of products: the only place where bytes of a product are read."""
