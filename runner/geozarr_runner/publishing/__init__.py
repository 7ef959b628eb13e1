"""Publishing: the output, its archive and its STAC item get their names."""
