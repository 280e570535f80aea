"""Sequences of tokens for autoregressive models."""
