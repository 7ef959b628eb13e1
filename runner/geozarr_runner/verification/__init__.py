"""Verification: the output is compared with the product, and failures are diagnosed."""
