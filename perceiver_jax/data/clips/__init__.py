"""Clips of video and audio: files, shards, decoding and preprocessing."""
