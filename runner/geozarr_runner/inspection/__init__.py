"""Inspection: from an address or a STAC item to the product's structure, with as few requests as there can be."""
