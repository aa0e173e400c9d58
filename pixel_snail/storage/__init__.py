"""Files, paths and pictures on the disk."""
