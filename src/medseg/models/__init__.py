"""The networks, all built by `build_model`, all with one interface: pixels in, logits out, any size."""

from medseg.models.network import Network, build_model
from medseg.models.params import ModelParams

__all__ = ["ModelParams", "Network", "build_model"]
