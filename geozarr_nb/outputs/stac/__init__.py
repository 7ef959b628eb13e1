"""STAC: catalogues of products to convert, and the items of what was converted."""
