"""Rotations, cameras, boxes and alignments."""
