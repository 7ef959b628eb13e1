"""How `geozarr_nb.sample` makes its products: a landscape, a structure, and one writer for each kind."""
