"""Metrics per example, one file per family."""
