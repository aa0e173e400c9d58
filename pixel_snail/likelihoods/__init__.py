"""The distributions of a pixel, whose parameters are a network's outputs."""
