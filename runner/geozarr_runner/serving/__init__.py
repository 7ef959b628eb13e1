"""What `serve` is made of: the folder that is shown, and the answers to one connection."""
