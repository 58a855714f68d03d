"""Which samples an epoch sees, and in which order: the section `sampling`."""

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.data.packed import Packed
from medseg.training.params import Balanced, Foreground, SamplingParams, Uniform

Order = NDArray[np.int64]


class Sampling:
    """The order of samples in each epoch: as many draws as there are samples, from an rng seeded by (seed, epoch)."""

    def __init__(self, params: SamplingParams, packed: Packed, seed: int) -> None:
        """Raise `UserError` where the data do not allow what `params` asks for."""
        self.count = len(packed.images)
        self.seed = seed
        self._pools = _pools(params, packed)

    def order(self, epoch: int) -> Order:
        """Return the numbers of an epoch's samples, in their order."""
        rng = np.random.default_rng([self.seed, epoch])
        draws = [_draw(rng, pool, size) for pool, size in self._pools]
        return rng.permutation(np.concatenate(draws))


def _pools(params: SamplingParams, packed: Packed) -> list[tuple[Order, int]]:
    """Return sets of samples, and how many draws of an epoch are from each."""
    count = len(packed.images)
    all_samples = np.arange(count)
    match params:
        case Uniform():
            return [(all_samples, count)]
        case Foreground():
            annotated = all_samples[annotated_shares(packed) >= params.least]
            if len(annotated) == 0:
                raise UserError(
                    f"params.yaml: sampling.least = {params.least}: no training sample has so much annotated; lower it"
                )
            chosen = round(params.share * count)
            return [(annotated, chosen), (all_samples, count - chosen)]
        case Balanced():
            labels = packed.index["label"].to_numpy(dtype=str)
            names = np.unique(labels)
            sizes = [len(part) for part in np.array_split(all_samples, len(names))]
            return [(all_samples[labels == name], size) for name, size in zip(names, sizes, strict=True)]


def annotated_shares(packed: Packed) -> NDArray[np.float64]:
    """Return the share of foreground in each sample's pixels (N,), 0..1; masks are read one at a time."""
    return np.array([np.count_nonzero(mask == 1) / mask.size for mask in packed.masks])


def _draw(rng: np.random.Generator, pool: Order, size: int) -> Order:
    """Draw `size` members of the pool; none is drawn again before all were."""
    rounds = -(-size // len(pool))
    drawn: Order = np.concatenate([pool[:0], *(rng.permutation(pool) for _ in range(rounds))])
    return drawn[:size]
