"""Arrays that short training runs share."""

import numpy as np
import pytest
import tiny

from medseg.data.packed import Packed


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Packed]:
    folder = tmp_path_factory.mktemp("stores")
    return tiny.write_packed(folder / "train", 5), tiny.write_packed(folder / "val", 3, seed=1)


@pytest.fixture(scope="module")
def worsening(stores: tuple[Packed, Packed]) -> tuple[Packed, Packed]:
    """Nearly all is annotated in train and nothing in val: val/loss rises, and the first epoch stays the best."""
    train, val = stores
    annotated = np.ones_like(train.masks)
    annotated[:, 0, 0] = 0
    return (
        Packed(train.images, annotated, train.index, train.geometry),
        Packed(val.images, np.zeros_like(val.masks), val.index, val.geometry),
    )
