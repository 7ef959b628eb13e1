"""Staging: the wanted part of a product, downloaded and shown to the converter as a store."""
