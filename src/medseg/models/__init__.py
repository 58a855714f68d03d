"""The networks, all built by `network.build_model`, all with one interface: pixels in, logits out, any size."""
