"""Which samples an epoch sees, and in which order."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import Section
from medseg.data.packed import Store

Order = NDArray[np.int64]


class Uniform(Section):
    """Every sample once."""

    name: Literal["uniform"]


class Foreground(Section):
    """A share of the draws goes to samples in which enough is marked, the rest to all samples alike.

    After nnU-Net (Isensee et al., Nature Methods 2021), which draws a third of its patches around foreground.
    """

    name: Literal["foreground"]
    share: float = Field(gt=0, le=1)  # of an epoch's draws
    least: float = Field(gt=0, lt=1)  # marked share of a sample's pixels that is enough


class Balanced(Section):
    """Every label of the manifest equally often."""

    name: Literal["balanced"]


SamplingParams = Annotated[Uniform | Foreground | Balanced, Field(discriminator="name")]


class Sampling:
    """The order of samples in each epoch: as many draws as there are samples, from a stream of (seed, epoch)."""

    def __init__(self, params: SamplingParams, store: Store, seed: int) -> None:
        """Raises `UserError` where the data do not allow what `params` asks for."""
        self.count = len(store.images)
        self.seed = seed
        self._pools = _pools(params, store)

    def order(self, epoch: int) -> Order:
        """The samples of an epoch, in their order."""
        chance = np.random.default_rng([self.seed, epoch])
        draws = [_draw(chance, pool, size) for pool, size in self._pools]
        return chance.permutation(np.concatenate(draws))


def _pools(params: SamplingParams, store: Store) -> list[tuple[Order, int]]:
    """Sets of samples, and how many draws of an epoch go to each."""
    count = len(store.images)
    everything = np.arange(count)
    match params:
        case Uniform():
            return [(everything, count)]
        case Foreground():
            marked = everything[marked_shares(store) >= params.least]
            if len(marked) == 0:
                raise UserError(
                    f"params.yaml: sampling.least = {params.least}: no training sample has so much marked; lower it"
                )
            chosen = round(params.share * count)
            return [(marked, chosen), (everything, count - chosen)]
        case Balanced():
            labels = store.index["label"].to_numpy(dtype=str)
            names = np.unique(labels)
            sizes = [len(part) for part in np.array_split(everything, len(names))]
            return [(everything[labels == name], size) for name, size in zip(names, sizes, strict=True)]


def marked_shares(store: Store) -> NDArray[np.float64]:
    """The marked share of each sample's pixels, 0..1, read one sample at a time."""
    return np.array([np.count_nonzero(mask) / mask.size for mask in store.masks])


def _draw(chance: np.random.Generator, pool: Order, size: int) -> Order:
    """`size` members of the pool, none again before all were drawn."""
    rounds = -(-size // len(pool))
    drawn: Order = np.concatenate([pool[:0], *(chance.permutation(pool) for _ in range(rounds))])
    return drawn[:size]
