"""Arrays that short training runs share."""

import pytest
import tiny

from medseg.data.packed import Packed


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Packed]:
    folder = tmp_path_factory.mktemp("stores")
    return tiny.write_packed(folder / "train", 5), tiny.write_packed(folder / "val", 3, seed=1)
