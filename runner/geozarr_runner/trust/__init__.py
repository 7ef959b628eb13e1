"""Checks of what others wrote: addresses, credentials, keys, sizes, names, folders and links."""
