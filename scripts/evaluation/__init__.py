"""Evaluation against baselines, and submissions to leaderboards."""
