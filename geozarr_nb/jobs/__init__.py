"""Jobs: the handle of one, sets of them, and their live progress."""
