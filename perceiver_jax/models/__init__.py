"""Haiku modules of the Perceiver family.

Needs only jax, dm-haiku, jaxtyping and numpy, so it can be vendored or
benchmarked alone: nothing here knows about data, training or configs.

Glossary of shapes used in this package:
  B: batch            N: latents            O: output queries
  M: input elements   D: latent channels    E: query channels
  C: input channels   H: attention heads    K: Fourier bands per dimension
"""
