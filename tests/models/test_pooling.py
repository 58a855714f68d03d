"""Pooling by matrices gives what PyTorch's own pooling gives."""

from typing import Any

import pytest
import torch
from torch import nn

from medseg.models.pooling import BinAverages, replace_pooling


@pytest.mark.parametrize("bins", [1, 3, (2, 5), (None, 3)])
def test_bins_average_what_pytorch_pools(bins: Any) -> None:
    pooling = nn.AdaptiveAvgPool2d(bins)
    for size in ((6, 6), (7, 11), (2, 3)):
        features = torch.rand(2, 3, *size)
        torch.testing.assert_close(BinAverages(pooling)(features), pooling(features))


def test_their_gradients_are_pytorchs() -> None:
    features = torch.rand(2, 3, 7, 11, dtype=torch.float64, requires_grad=True)
    pooling = nn.AdaptiveAvgPool2d((2, 3))
    weights = torch.rand(2, 3, 2, 3, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((pool(features) * weights).sum(), features)[0] for pool in (BinAverages(pooling), pooling)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_pooling_to_one_bin_stays() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.AdaptiveAvgPool2d(4)))
    replace_pooling(network)
    assert isinstance(network[0], nn.AdaptiveAvgPool2d)
    assert isinstance(network[1], nn.Sequential)
    assert isinstance(network[1][0], BinAverages)
