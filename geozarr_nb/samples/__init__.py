"""Sample products: a landscape, a structure, and one writer for each kind."""
