"""Batches from packed arrays: one indexed copy for each batch, no loop over samples, on the device that trains.

A GPU holds the whole set where it has room for it; else batches go there from the memory map while it computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medseg.core.errors import UserError
from medseg.data.augment import Transforms, check_shape, is_active
from medseg.data.packed import Packed
from medseg.training.batch_augment import draw_numbers, vary_batch
from medseg.training.sampler import Order, Sampling

# Pixels (N, C, H, W), 0..255, uint8 or, where they vary, float32; truth (N, 1, H, W) uint8, codes of classes
Batch = tuple[Tensor, Tensor]
Batches = DataLoader[Batch]

CPU = torch.device("cpu")
ROOM = 0.5  # share of a GPU's free memory that a set of samples may take; the rest is for training
_LOADED = 64 * 2**20  # bytes that go to a GPU at a time


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


class _Pixels:
    """One of the packed arrays, as batches are taken of it: on the device where it fits, else in its memory map."""

    def __init__(self, array: NDArray[np.uint8], device: torch.device) -> None:
        self.array = np.asarray(array)  # a plain array over the map: a memmap makes itself known in every slice
        self.device = device
        self.held = _held(array, device) if device.type == "cuda" and _fits(array, device) else None

    def take(self, samples: Order) -> Tensor:
        """The samples, uint8, on the device."""
        if self.held is not None:
            return self.held[torch.from_numpy(samples).to(self.device, non_blocking=True)]
        batch = torch.from_numpy(self.array[samples])
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # what the copy can pass while the GPU computes
        return batch.to(self.device, non_blocking=True)


def _fits(array: NDArray[np.uint8], device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return array.nbytes <= ROOM * free


def _held(array: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The whole array in the device's memory, brought there piece by piece."""
    held = torch.empty(array.shape, dtype=torch.uint8, device=device)
    step = max(1, _LOADED // max(1, array[:1].nbytes))
    for first in range(0, len(array), step):
        held[first : first + step] = torch.from_numpy(np.array(array[first : first + step]))
    return held


class _BatchReader(Dataset[Batch]):
    """A draw to pixels and truth; `codes` are the classes of each sample's annotated pixels."""

    def __init__(self, store: Packed, codes: NDArray[np.uint8], device: torch.device) -> None:
        self.images = _Pixels(store.images, device)
        self.masks = _Pixels(store.masks, device)
        self.codes = torch.from_numpy(codes).to(device)

    def __getitem__(self, draw: _Draw) -> Batch:
        codes = self.codes[torch.from_numpy(draw.samples).to(self.codes.device, non_blocking=True)]
        truth = self.masks.take(draw.samples).mul_(codes[:, None, None])
        return self.images.take(draw.samples).permute(0, 3, 1, 2), truth.unsqueeze(1)


class _VaryingReader(_BatchReader):
    """Transforms every sample by what is drawn for (seed, epoch, place in the epoch)."""

    def __init__(
        self, store: Packed, codes: NDArray[np.uint8], device: torch.device, online: Transforms, seed: int
    ) -> None:
        super().__init__(store, codes, device)
        self.online = online
        self.seed = seed

    def __getitem__(self, draw: _Draw) -> Batch:
        draws = draw_numbers(self.seed, draw.epoch, draw.first, len(draw.samples))
        return vary_batch(*super().__getitem__(draw), self.online, draws)


def training_batches(
    store: Packed,
    codes: NDArray[np.uint8],
    sampling: Sampling,
    online: Transforms,
    batch_size: int,
    first_epoch: int,
    share: Share = WHOLE,
    device: torch.device = CPU,
) -> Batches:
    """An epoch's draws in batches on `device`, the last short one left out where others exist.

    `codes` (N,) are the classes of the samples' annotated pixels. The run begins with the draws of `first_epoch`; those
    of an epoch depend on its number and the seed of `sampling` alone. `batch_size` is that of all processes together,
    of which this one takes its `share`. Raises `UserError` where `online` does not fit the samples, or where the
    processes can't share the batches evenly.
    """
    check_shape(online, "online", *store.images.shape[1:3])
    _check_share(share, batch_size, sampling.count)
    if is_active(online):
        reader: _BatchReader = _VaryingReader(store, codes, device, online, sampling.seed)
    else:
        reader = _BatchReader(store, codes, device)
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


def validation_batches(
    store: Packed, codes: NDArray[np.uint8], batch_size: int, share: Share = WHOLE, device: torch.device = CPU
) -> Batches:
    """All samples in their order, as they are, on `device`; of the batches, those of this process's `share`.

    A process for which no batch is left at its last step gets one of no samples, so that all take as many steps.
    """
    draws = _ValidationDraws(len(store.images), batch_size, share)
    return DataLoader(_BatchReader(store, codes, device), sampler=draws, batch_size=None)
