"""What users give to a network: images, masks, labels and conditions."""
