"""Pairs of frames with optical flow: folders, rendering and augmentation."""
