"""Planning: which groups, at which cost, with which memory, and whether a run may start."""
