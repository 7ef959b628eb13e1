"""Widgets that choose what is converted: the product, its groups, output and options."""
