"""Training runs: their folders, checkpoints and history, and the search for them."""
