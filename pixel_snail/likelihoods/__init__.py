"""What a network's outputs mean: the distributions of a pixel."""
