"""Tuning on the validation set, scoring on the test set, and the tables and plots of both."""
