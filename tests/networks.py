"""What tests of whole networks share."""

from torch import nn


def unsettle(network: nn.Module) -> None:
    """Give all that starts at 0 or 1 (biases, the statistics, scales and shifts of normalisation) other values."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            module.bias.data.normal_()
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for values in (module.running_mean, module.bias.data):
                values.normal_(std=0.3)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 2)


def assert_plain_start(network: nn.Module) -> None:
    """Biases start at 0, scales of normalisation at 1 and its shifts at 0."""
    for name, values in network.named_parameters():
        if name.endswith("bias"):
            assert (values == 0).all(), name
        elif "norm" in name:
            assert (values == 1).all(), name
