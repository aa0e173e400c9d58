"""Lossless compression of images with a network: an entropy coder driven by the network's likelihood."""
