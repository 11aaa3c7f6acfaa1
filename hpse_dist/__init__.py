"""hpse_dist: pre-training encoders for 3D human pose and shape, and comparing them fairly."""

__version__ = "0.1.0"
