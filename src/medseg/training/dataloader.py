"""Batches from packed arrays, on the device that trains: one indexed copy per batch, no loop over samples.

A GPU holds the whole array where it has memory for it; else batches are copied from the memory map while it computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medseg.core.errors import UserError
from medseg.data.augment import Transforms, check_shape, is_active
from medseg.data.packed import Packed
from medseg.data.task import UNANNOTATED
from medseg.training.batch_augment import augment_batch, random_numbers
from medseg.training.sampler import Order, Sampling

# Pixels (N, C, H, W), 0..255, uint8 or, augmented, float32; truth (N, 1, H, W) uint8 class codes,
# `UNANNOTATED` where nothing is known
Batch = tuple[Tensor, Tensor]
Batches = DataLoader[Batch]

CPU = torch.device("cpu")
MEMORY_SHARE = 0.5  # of a GPU's free memory that an array may take; the rest is for training
_CHUNK = 64 * 2**20  # bytes copied to a GPU at a time


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together."""

    number: int  # from 0
    world_size: int  # processes


SINGLE = Rank(number=0, world_size=1)


@dataclass(frozen=True)
class _Selection:
    """The part of one batch that this rank takes."""

    epoch: int
    first: int  # position of the first sample in the epoch
    samples: Order


class _TrainingSampler(Sampler[_Selection]):
    """The batches of an epoch, each shared by the ranks: together they are the batches of a single process.

    Every sample of the epoch is in one batch. As few batches as `batch_size` allows share the samples evenly, their
    sizes differ by one at most: a short last batch would weigh its few samples more than the others, and batch
    normalisation can't be trained on a single one. So that no batch is a single sample and no rank gets none, few
    samples may be in batches larger than `batch_size`.

    Lightning calls `set_epoch` of any sampler that has it before each epoch.
    """

    def __init__(self, sampling: Sampling, batch_size: int, first_epoch: int, rank: Rank) -> None:
        self.sampling = sampling
        self.rank = rank
        self.bounds = _even_bounds(sampling.count, _batch_count(sampling.count, batch_size, rank.world_size))
        self.first_epoch = first_epoch
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of this run, from 0, whose batches come next."""
        self.epoch = self.first_epoch + epoch

    def __iter__(self) -> Iterator[_Selection]:
        order = self.sampling.order(self.epoch)
        for start, end in pairwise(self.bounds):
            parts = _even_bounds(end - start, self.rank.world_size)
            first, last = (start + parts[self.rank.number + step] for step in (0, 1))
            yield _Selection(self.epoch, first, order[first:last])

    def __len__(self) -> int:
        return len(self.bounds) - 1


def _batch_count(samples: int, batch_size: int, ranks: int) -> int:
    fewest = max(min(batch_size, 2), ranks)  # samples of the smallest batch
    return max(1, min(-(-samples // batch_size), samples // fewest))


def _even_bounds(count: int, parts: int) -> list[int]:
    """Where `parts` parts of `count` items begin and end; the first are larger by one where it does not divide."""
    return [part * (count // parts) + min(part, count % parts) for part in range(parts + 1)]


class _ValidationSampler(Sampler[_Selection]):
    """All samples in their order; whole batches go to the ranks in turn.

    Whole, since some losses are of a batch, not of a sample. All ranks take the same number of steps: where no batch
    is left for one, it gets an empty one.
    """

    def __init__(self, count: int, batch_size: int, rank: Rank) -> None:
        self.count = count
        self.size = batch_size
        self.rank = rank

    def __iter__(self) -> Iterator[_Selection]:
        for step in range(len(self)):
            first = (step * self.rank.world_size + self.rank.number) * self.size
            yield _Selection(0, first, np.arange(first, min(first + self.size, self.count)))

    def __len__(self) -> int:
        return -(-self.count // (self.size * self.rank.world_size))


class _DeviceArray:
    """A packed array from which batches are taken: on the GPU where it fits, else in its memory map."""

    def __init__(self, array: NDArray[np.uint8], device: torch.device) -> None:
        self.array = np.asarray(array)  # a plain array over the map: slicing a memmap is slower
        self.device = device
        self.held: Tensor | None = None
        if device.type == "cuda" and array.nbytes <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.held = _held(array, device)

    def take(self, samples: Order) -> Tensor:
        """Return the samples, uint8, on the device."""
        if self.held is not None:
            return self.held[torch.from_numpy(samples).to(self.device, non_blocking=True)]
        batch = torch.from_numpy(self.array[samples])
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # so that it is copied while the GPU computes
        return batch.to(self.device, non_blocking=True)


def _held(array: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Copy the whole array to the device, in chunks."""
    held = torch.empty(array.shape, dtype=torch.uint8, device=device)
    step = max(1, _CHUNK // max(1, array[:1].nbytes))
    for first in range(0, len(array), step):
        held[first : first + step] = torch.from_numpy(np.array(array[first : first + step]))
    return held


class _BatchDataset(Dataset[Batch]):
    """Indexed by `_Selection`; `codes` (N,) are the classes of the samples' annotated pixels."""

    def __init__(self, packed: Packed, codes: NDArray[np.uint8], device: torch.device) -> None:
        self.images = _DeviceArray(packed.images, device)
        self.masks = _DeviceArray(packed.masks, device)
        self.codes = torch.from_numpy(codes).to(device)

    def __getitem__(self, selection: _Selection) -> Batch:
        codes = self.codes[torch.from_numpy(selection.samples).to(self.codes.device, non_blocking=True)]
        truth = class_codes(self.masks.take(selection.samples), codes)
        return self.images.take(selection.samples).permute(0, 3, 1, 2), truth.unsqueeze(1)


def class_codes(masks: Tensor, codes: Tensor) -> Tensor:
    """Return masks (N, H, W) with the class of each sample (N,), both uint8, as codes where something is annotated."""
    return torch.where(masks == UNANNOTATED, masks, masks * codes[:, None, None])


class _AugmentedDataset(_BatchDataset):
    """Augments every sample by the random numbers of (seed, epoch, position in the epoch)."""

    def __init__(
        self, packed: Packed, codes: NDArray[np.uint8], device: torch.device, online: Transforms, seed: int
    ) -> None:
        super().__init__(packed, codes, device)
        self.online = online
        self.seed = seed

    def __getitem__(self, selection: _Selection) -> Batch:
        numbers = random_numbers(self.seed, selection.epoch, selection.first, len(selection.samples))
        return augment_batch(*super().__getitem__(selection), self.online, numbers)


def training_batches(
    packed: Packed,
    codes: NDArray[np.uint8],
    sampling: Sampling,
    online: Transforms,
    batch_size: int,
    first_epoch: int,
    rank: Rank = SINGLE,
    device: torch.device = CPU,
) -> Batches:
    """Return the batches of an epoch on `device`, of nearly equal sizes: each sample that was drawn is in one.

    `codes` (N,) are the classes of the samples' annotated pixels. The run begins with epoch `first_epoch`; an epoch's
    samples and transforms depend on its number and the seed of `sampling` alone. `batch_size` is that of all ranks
    together and the mean size at most, but for few samples. Raises `UserError` where `online` does not fit the
    samples, or where the ranks can't split batches of that size evenly.
    """
    check_shape(online, "online", *packed.images.shape[1:3])
    _check_split(rank, batch_size, sampling.count)
    if is_active(online):
        dataset: _BatchDataset = _AugmentedDataset(packed, codes, device, online, sampling.seed)
    else:
        dataset = _BatchDataset(packed, codes, device)
    return DataLoader(dataset, sampler=_TrainingSampler(sampling, batch_size, first_epoch, rank), batch_size=None)


def _check_split(rank: Rank, batch_size: int, samples: int) -> None:
    if batch_size % rank.world_size:
        raise UserError(
            f"params.yaml: train.batch_size = {batch_size}: can't be shared evenly by {rank.world_size} processes "
            "(train.devices times train.num_nodes); choose a multiple of their number"
        )
    if samples < rank.world_size:
        raise UserError(
            f"params.yaml: train.devices: {rank.world_size} processes for {samples} training samples; take fewer"
        )


def validation_batches(
    packed: Packed, codes: NDArray[np.uint8], batch_size: int, rank: Rank = SINGLE, device: torch.device = CPU
) -> Batches:
    """Return all samples in their order, as they are, on `device`; of the batches, those of this `rank`.

    A rank for which no batch is left at the last step gets one of no samples, so that all take as many steps.
    """
    sampler = _ValidationSampler(len(packed.images), batch_size, rank)
    return DataLoader(_BatchDataset(packed, codes, device), sampler=sampler, batch_size=None)
