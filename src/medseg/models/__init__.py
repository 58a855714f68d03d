"""Networks, all built by `network.build_model`: from pixels of any size to logits of the same size."""
