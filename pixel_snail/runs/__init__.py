"""What a training run leaves on the disk, and how it is found again."""
