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
from medseg.errors import UserError
from medseg.sampling import Order, Sampling
from medseg.store import Store

Batch = tuple[Tensor, Tensor]  # pixels (N, C, H, W) uint8 and truth (N, 1, H, W) uint8, codes of classes
Batches = DataLoader[Batch]


@dataclass(frozen=True)
class Share:
    """What one of several processes that train together takes: process `rank`, from 0, of `world`."""

    rank: int
    world: int


WHOLE = Share(rank=0, world=1)


@dataclass(frozen=True)
class _Draw:
    """One batch of an epoch, or a process's share of it."""

    epoch: int
    first: int  # place of the first sample in the epoch
    samples: Order


class _TrainingDraws(Sampler[_Draw]):
    """An epoch's batches, each cut into equal shares: together they are the batches of a single process.

    Lightning calls `set_epoch` before each epoch, as it does for any sampler that has it.
    """

    def __init__(self, sampling: Sampling, batch_size: int, first_epoch: int, share: Share) -> None:
        self.sampling = sampling
        self.size = min(batch_size, sampling.count // share.world * share.world)
        self.part = self.size // share.world
        self.start = share.rank * self.part
        self.first_epoch = first_epoch
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Make the next batches those of the epoch `epoch` of this run, from 0."""
        self.epoch = self.first_epoch + epoch

    def __iter__(self) -> Iterator[_Draw]:
        order = self.sampling.order(self.epoch)
        for first in range(self.start, len(self) * self.size, self.size):
            yield _Draw(self.epoch, first, order[first : first + self.part])

    def __len__(self) -> int:
        return self.sampling.count // self.size


class _ValidationDraws(Sampler[_Draw]):
    """All samples in their order, whole batches dealt to the processes in turn.

    Whole, since some losses are of a batch, not of a sample. All processes take as many steps: where no batch is left
    for one, it gets an empty one.
    """

    def __init__(self, count: int, batch_size: int, share: Share) -> None:
        self.count = count
        self.size = batch_size
        self.share = share

    def __iter__(self) -> Iterator[_Draw]:
        for step in range(len(self)):
            first = (step * self.share.world + self.share.rank) * self.size
            yield _Draw(0, first, np.arange(first, min(first + self.size, self.count)))

    def __len__(self) -> int:
        return -(-self.count // (self.size * self.share.world))


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
    store: Store,
    codes: NDArray[np.uint8],
    sampling: Sampling,
    online: Transforms,
    batch_size: int,
    first_epoch: int,
    share: Share = WHOLE,
) -> Batches:
    """An epoch's draws in batches, the last short one left out where others exist.

    `codes` (N,) are the classes of the samples' marked pixels. The run begins with the draws of `first_epoch`; those of
    an epoch hang on its number and the seed of `sampling` alone. `batch_size` is that of all processes together, of
    which this one takes its `share`. Raises `UserError` where `online` does not fit the samples, or where the processes
    can't share the batches evenly.
    """
    check_shape(online, "online", *store.images.shape[1:3])
    _check_share(share, batch_size, sampling.count)
    reader = _VaryingReader(store, codes, online, sampling.seed) if is_active(online) else _BatchReader(store, codes)
    return DataLoader(reader, sampler=_TrainingDraws(sampling, batch_size, first_epoch, share), batch_size=None)


def _check_share(share: Share, batch_size: int, samples: int) -> None:
    if batch_size % share.world:
        raise UserError(
            f"params.yaml: train.batch_size = {batch_size}: can't be shared evenly by {share.world} processes "
            "(train.devices times train.num_nodes); choose a multiple of their number"
        )
    if samples < share.world:
        raise UserError(
            f"params.yaml: train.devices: {share.world} processes can't share {samples} training samples; take fewer"
        )


def validation_batches(store: Store, codes: NDArray[np.uint8], batch_size: int, share: Share = WHOLE) -> Batches:
    """All samples in their order, as they are; of the batches, those of this process's `share`.

    A process for which no batch is left at its last step gets one of no samples, so that all take as many steps.
    """
    draws = _ValidationDraws(len(store.images), batch_size, share)
    return DataLoader(_BatchReader(store, codes), sampler=draws, batch_size=None)
