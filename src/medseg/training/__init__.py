"""Training a network: batches, losses, optimisers, the training loop and its checkpoints."""
