"""What users give to a network: images, labels and conditions."""
