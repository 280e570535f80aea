"""Perceiver and Perceiver IO in JAX with dm-haiku."""

__version__ = "0.1.0"
