"""What a product holds: groups, arrays, their metadata, stored chunks and sampled pixels."""
