"""Batches from packed arrays: one indexed copy out of the memory map for each batch, no loop over samples.

Samples are looped over only where they are transformed while training (the section `online`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medseg.augmentation import Transforms, build_transform, check_shape, is_active, vary
from medseg.sampling import Order, Sampling
from medseg.store import Store

Batch = tuple[Tensor, Tensor]  # pixels (N, C, H, W) uint8 and truth (N, 1, H, W) uint8, codes of classes
Batches = DataLoader[Batch]


@dataclass(frozen=True)
class _Draw:
    """One batch of an epoch."""

    epoch: int
    first: int  # place of the first sample in the epoch
    samples: Order


class _TrainingDraws(Sampler[_Draw]):
    """An epoch's batches. Lightning calls `set_epoch` before each epoch, as it does for any sampler that has it."""

    def __init__(self, sampling: Sampling, batch_size: int, first_epoch: int) -> None:
        self.sampling = sampling
        self.size = min(batch_size, sampling.count)
        self.first_epoch = first_epoch
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Make the next batches those of the epoch `epoch` of this run, from 0."""
        self.epoch = self.first_epoch + epoch

    def __iter__(self) -> Iterator[_Draw]:
        order = self.sampling.order(self.epoch)
        for first in range(0, len(self) * self.size, self.size):
            yield _Draw(self.epoch, first, order[first : first + self.size])

    def __len__(self) -> int:
        return self.sampling.count // self.size


class _ValidationDraws(Sampler[_Draw]):
    """All samples in their order."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count = count
        self.size = batch_size

    def __iter__(self) -> Iterator[_Draw]:
        for first in range(0, self.count, self.size):
            yield _Draw(0, first, np.arange(first, min(first + self.size, self.count)))

    def __len__(self) -> int:
        return -(-self.count // self.size)


class _BatchReader(Dataset[Batch]):
    """A draw to pixels and truth; `codes` are the classes of each sample's marked pixels."""

    def __init__(self, store: Store, codes: NDArray[np.uint8]) -> None:
        self.store = store
        self.codes = codes

    def __getitem__(self, draw: _Draw) -> Batch:
        images, masks = self.store.images[draw.samples], self.store.masks[draw.samples]
        return self.pack(images, masks, draw)

    def pack(self, images: NDArray[np.uint8], masks: NDArray[np.uint8], draw: _Draw) -> Batch:
        """(N, H, W, C) and (N, H, W) in the form that a network takes."""
        truth = masks * self.codes[draw.samples][:, None, None]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(truth).unsqueeze(1)


class _VaryingReader(_BatchReader):
    """Transforms every sample by a random stream of (seed, epoch, place in the epoch)."""

    def __init__(self, store: Store, codes: NDArray[np.uint8], online: Transforms, seed: int) -> None:
        super().__init__(store, codes)
        self.transform = build_transform(online)
        self.seed = seed

    def __getitem__(self, draw: _Draw) -> Batch:
        images, masks = self.store.images[draw.samples], self.store.masks[draw.samples]
        for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
            stream = (self.seed, draw.epoch, draw.first + place)
            images[place], masks[place] = vary(self.transform, image, mask, stream)
        return self.pack(images, masks, draw)


def training_batches(
    store: Store, codes: NDArray[np.uint8], sampling: Sampling, online: Transforms, batch_size: int, first_epoch: int
) -> Batches:
    """An epoch's draws in batches, the last short one left out where others exist.

    `codes` (N,) are the classes of the samples' marked pixels. The run begins with the draws of `first_epoch`; those of
    an epoch hang on its number and the seed of `sampling` alone. Raises `UserError` where `online` does not fit the
    samples.
    """
    check_shape(online, "online", *store.images.shape[1:3])
    reader = _VaryingReader(store, codes, online, sampling.seed) if is_active(online) else _BatchReader(store, codes)
    return DataLoader(reader, sampler=_TrainingDraws(sampling, batch_size, first_epoch), batch_size=None)


def validation_batches(store: Store, codes: NDArray[np.uint8], batch_size: int) -> Batches:
    """All samples in their order, as they are."""
    return DataLoader(
        _BatchReader(store, codes), sampler=_ValidationDraws(len(store.images), batch_size), batch_size=None
    )
