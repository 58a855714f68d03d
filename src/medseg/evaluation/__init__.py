"""Choosing on the validation set, scoring on the test set, and what is written about it."""
