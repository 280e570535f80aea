"""Images: sources, decoding, preprocessing and augmentation."""
