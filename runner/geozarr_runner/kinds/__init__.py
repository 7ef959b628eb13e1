"""Kinds of products: how each is recognised, named, converted, laid out and placed on a map."""
