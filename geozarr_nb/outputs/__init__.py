"""Outputs: open, look at, download and catalogue what conversions wrote."""
