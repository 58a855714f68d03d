"""Metrics of masks and probabilities against a truth, and statistics of them."""
