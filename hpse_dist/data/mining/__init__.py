"""How pairs are found: candidates out of frames.parquet, rules, caps, and what was left of them."""
