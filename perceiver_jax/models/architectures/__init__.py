"""Architectures other than those of the two papers, and the baselines."""
