"""Fast forms of a few operations, whose formulas are in nn.py and optimizer.py."""
