"""Maps of the attention of single latents, by kind of input."""
