"""The work of the commands, and the command line that they share."""
