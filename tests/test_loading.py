"""Batches hold every sample, in an order that the seed alone decides."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from medseg.loading import Batches, training_batches, validation_batches
from medseg.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny.write_store(tmp_path_factory.mktemp("store"), 10, channels=3)


def numbers(batches: Batches, store: Store) -> list[list[int]]:
    """Which samples each batch holds."""
    known = {store.images[number].tobytes(): number for number in range(len(store.images))}
    return [[known[image.numpy().transpose(1, 2, 0).tobytes()] for image in pixels] for pixels, _ in batches]


def test_batches_are_whole_samples_in_torchs_layout(store: Store) -> None:
    pixels, truth = next(iter(validation_batches(store, 4)))
    assert pixels.shape == (4, 3, 32, 32)
    assert truth.shape == (4, 1, 32, 32)
    assert pixels.dtype == truth.dtype == torch.uint8
    np.testing.assert_array_equal(pixels[2].permute(1, 2, 0), store.images[2])
    np.testing.assert_array_equal(truth[2, 0], store.masks[2])


def test_validation_sees_every_sample_in_order(store: Store) -> None:
    assert numbers(validation_batches(store, 4), store) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_training_drops_the_short_batch_and_no_sample_comes_twice(store: Store) -> None:
    batches = training_batches(store, 4, seed=0)
    drawn = numbers(batches, store)
    assert [len(batch) for batch in drawn] == [4, 4]
    assert len({number for batch in drawn for number in batch}) == 8


def test_a_batch_larger_than_the_samples_holds_them_all(store: Store) -> None:
    drawn = numbers(training_batches(store, 64, seed=0), store)
    assert [sorted(batch) for batch in drawn] == [list(range(10))]


def test_the_seed_decides_the_order_and_each_epoch_has_its_own(store: Store) -> None:
    first, again, other = (training_batches(store, 5, seed) for seed in (1, 1, 2))
    epochs = [numbers(first, store), numbers(first, store)]
    assert epochs == [numbers(again, store), numbers(again, store)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != numbers(other, store)


def test_the_order_does_not_hang_on_what_else_draws_numbers(store: Store) -> None:
    first = numbers(training_batches(store, 5, seed=1), store)
    torch.manual_seed(99)
    torch.rand(7)
    assert numbers(training_batches(store, 5, seed=1), store) == first


def test_batches_can_be_written_without_touching_the_arrays(tmp_path: Path) -> None:
    store = tiny.write_store(tmp_path, 2)
    before = np.array(store.images)
    pixels, _ = next(iter(validation_batches(store, 2)))
    pixels += 1
    np.testing.assert_array_equal(store.images, before)
