"""Batches from packed arrays: one indexed copy out of the memory map for each batch, no loop over samples."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from medseg.store import Store

Batches = DataLoader[tuple[Tensor, Tensor]]


class _BatchReader(Dataset[tuple[Tensor, Tensor]]):
    """A list of sample numbers to pixels (N, C, H, W) and truth (N, 1, H, W), both uint8."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getitem__(self, samples: list[int]) -> tuple[Tensor, Tensor]:
        rows = np.array(samples)
        pixels = torch.from_numpy(self.store.images[rows]).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(self.store.masks[rows]).unsqueeze(1)


def training_batches(store: Store, batch_size: int, seed: int) -> Batches:
    """All samples once per epoch in an order drawn from `seed`, the last short batch left out where others exist."""
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(range(len(store.images)), generator=generator)
    batches = BatchSampler(order, batch_size, drop_last=len(store.images) >= batch_size)
    return DataLoader(_BatchReader(store), sampler=batches, batch_size=None)


def validation_batches(store: Store, batch_size: int) -> Batches:
    """All samples in their order."""
    batches = BatchSampler(SequentialSampler(range(len(store.images))), batch_size, drop_last=False)
    return DataLoader(_BatchReader(store), sampler=batches, batch_size=None)
