"""Prediction: from a trained network and an image to a mask."""
