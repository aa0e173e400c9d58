"""What the commands do, and the command line that they share."""
