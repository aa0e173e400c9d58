"""How a few operations are made fast; nn.py and optimizer.py say what they compute."""
