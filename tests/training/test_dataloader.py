"""Batches hold the samples of an epoch, and their transforms, as seed and epoch alone decide."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medseg.core.errors import UserError
from medseg.data.augment import Transforms
from medseg.data.packed import Packed
from medseg.data.task import UNANNOTATED
from medseg.training.dataloader import Batch, Batches, Rank, training_batches, validation_batches
from medseg.training.params import Uniform
from medseg.training.sampler import Sampling

NOTHING = tiny.online()
EVERYTHING = tiny.online(*tiny.STILL, p=0.7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return tiny.write_packed(tmp_path_factory.mktemp("store"), 10, channels=3)


def codes(store: Packed) -> NDArray[np.uint8]:
    """Foreground everywhere."""
    return np.ones(len(store.images), np.uint8)


def few(store: Packed, count: int) -> Packed:
    """`count` samples, some of them alike."""
    rows = np.arange(count) % len(store.images)
    return Packed(store.images[rows], store.masks[rows], store.index.iloc[rows], store.geometry)


def training(
    store: Packed, size: int, seed: int = 0, online: Transforms = NOTHING, first_epoch: int = 0, epoch: int = 0
) -> Batches:
    sampling = Sampling(Uniform(name="uniform"), store, seed)
    batches = training_batches(store, codes(store), sampling, online, size, first_epoch)
    batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # as Lightning does
    return batches


def numbers(batches: Batches, store: Packed) -> list[list[int]]:
    """Which samples each batch holds."""
    known = {store.images[number].tobytes(): number for number in range(len(store.images))}
    return [[known[image.numpy().transpose(1, 2, 0).tobytes()] for image in pixels] for pixels, _ in batches]


def same(first: Batches, second: Batches) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(*part) for one, other in pairs for part in zip(one, other, strict=True))


def test_batches_are_whole_samples_in_torchs_layout(store: Packed) -> None:
    pixels, truth = next(iter(validation_batches(store, codes(store), 4)))
    assert pixels.shape == (4, 3, 32, 32)
    assert truth.shape == (4, 1, 32, 32)
    assert pixels.dtype == truth.dtype == torch.uint8
    np.testing.assert_array_equal(pixels[2].permute(1, 2, 0), store.images[2])
    np.testing.assert_array_equal(truth[2, 0], store.masks[2])


def test_validation_sees_every_sample_in_order(store: Packed) -> None:
    assert numbers(validation_batches(store, codes(store), 4), store) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@given(count=st.integers(1, 70), size=st.integers(1, 20), ranks=st.sampled_from([1, 2, 3, 4]))
@settings(deadline=None, max_examples=200)
def test_every_sample_of_an_epoch_is_in_one_batch_of_one_rank(store: Packed, count: int, size: int, ranks: int) -> None:
    size, count = size * ranks, max(count, ranks)
    sampling = Sampling(Uniform(name="uniform"), few(store, count), 0)
    ready = [
        training_batches(few(store, count), np.ones(count, np.uint8), sampling, NOTHING, size, 0, Rank(number, ranks))
        for number in range(ranks)
    ]
    parts = [[selection.samples.tolist() for selection in batches.sampler] for batches in ready]
    assert len({len(of_rank) for of_rank in parts}) == 1  # or the ranks would wait for one another
    assert sorted(number for of_rank in parts for part in of_rank for number in part) == list(range(count))
    whole = [list(chain.from_iterable(step)) for step in zip(*parts, strict=True)]
    assert list(chain.from_iterable(whole)) == sampling.order(0).tolist()  # the batches of a single process
    sizes = [len(batch) for batch in whole]
    assert max(sizes) - min(sizes) <= 1
    assert min(len(part) for of_rank in parts for part in of_rank) >= 1
    assert min(sizes) >= min(2, size, count)  # batch normalisation needs more than one value
    assert max(sizes) <= size or max(sizes) < 2 * max(2, ranks)


def test_thirty_one_samples_are_two_batches(store: Packed) -> None:
    sampling = Sampling(Uniform(name="uniform"), few(store, 31), 0)
    batches = training_batches(few(store, 31), np.ones(31, np.uint8), sampling, NOTHING, 16, 0)
    assert [len(pixels) for pixels, _ in batches] == [16, 15]


def test_a_batch_larger_than_the_samples_holds_them_all(store: Packed) -> None:
    assert [sorted(batch) for batch in numbers(training(store, 64), store)] == [list(range(10))]


def test_there_are_as_many_batches_as_the_loader_says(store: Packed) -> None:
    for batches in (training(store, 3), validation_batches(store, codes(store), 3)):
        assert len(batches) == len(list(batches))


def test_an_epoch_sees_the_samples_in_the_order_that_sampling_gives(store: Packed) -> None:
    order = Sampling(Uniform(name="uniform"), store, 4).order(2).tolist()
    assert numbers(training(store, 5, seed=4, epoch=2), store) == [order[:5], order[5:]]


def test_a_run_can_begin_with_a_later_epoch(store: Packed) -> None:
    late = training(store, 5, online=EVERYTHING, epoch=3)
    assert same(training(store, 5, online=EVERYTHING, first_epoch=3), late)
    assert same(training(store, 5, online=EVERYTHING, first_epoch=1, epoch=2), late)


@pytest.mark.parametrize("online", [NOTHING, EVERYTHING])
def test_seed_and_epoch_alone_decide_what_a_batch_holds(store: Packed, online: Transforms) -> None:
    batches = training(store, 5, seed=1, online=online, epoch=2)
    once = list(batches)
    torch.manual_seed(99)
    np.random.seed(99)
    assert all(
        torch.equal(*pair) for one, two in zip(once, batches, strict=True) for pair in zip(one, two, strict=True)
    )
    assert same(training(store, 5, seed=1, online=online, epoch=2), batches)
    assert not same(training(store, 5, seed=1, online=online, epoch=3), batches)
    assert not same(training(store, 5, seed=2, online=online, epoch=2), batches)


def test_a_sample_is_transformed_anew_in_every_epoch(tmp_path: Path) -> None:
    one = tiny.write_packed(tmp_path, 1)
    epochs = [next(iter(training(one, 1, online=tiny.online("gaussian_noise"), epoch=epoch)))[0] for epoch in range(4)]
    assert len({pixels.numpy().tobytes() for pixels in epochs}) == 4


def test_equal_samples_of_an_epoch_are_transformed_each_in_its_own_way(tmp_path: Path) -> None:
    one = tiny.write_packed(tmp_path, 1)
    four = [0, 0, 0, 0]
    equal = Packed(one.images[four], one.masks[four], one.index.iloc[four], one.geometry)
    batches = training(equal, 2, online=tiny.online("gaussian_noise"))
    assert len({image.numpy().tobytes() for pixels, _ in batches for image in pixels}) == 4


def test_without_transforms_training_sees_the_bytes_of_the_arrays(store: Packed) -> None:
    for chosen, (pixels, truth) in zip(numbers(training(store, 5), store), training(store, 5), strict=True):
        np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1), store.images[chosen])
        np.testing.assert_array_equal(truth[:, 0], store.masks[chosen])


def test_images_and_masks_move_together(store: Packed) -> None:
    bright = Packed(store.masks[..., None].repeat(3, axis=3) * np.uint8(255), store.masks, store.index, store.geometry)
    flips = tiny.online("horizontal_flip", "vertical_flip", "quarter_turns", p=0.5)
    pixels, truth = next(iter(training(bright, 10, online=flips)))
    assert torch.equal(pixels, truth.expand(-1, 3, -1, -1) * 255)
    still = next(iter(training(bright, 10)))[1]
    assert 0 < sum(torch.equal(*pair) for pair in zip(truth, still, strict=True)) < 10  # some moved, some did not


def test_quarter_turns_are_refused_where_samples_are_not_square(store: Packed) -> None:
    oblong = Packed(store.images[:, :16], store.masks[:, :16], store.index, store.geometry)
    with pytest.raises(UserError, match=r"online\.quarter_turns = 0\.5"):
        training(oblong, 2, online=tiny.online("quarter_turns", p=0.5))
    pixels, _ = next(iter(training(oblong, 2, online=tiny.online("horizontal_flip"))))
    assert pixels.shape == (2, 3, 16, 32)


@pytest.mark.parametrize("online", [NOTHING, tiny.online("horizontal_flip")])
def test_truth_holds_the_class_of_each_sample(store: Packed, online: Transforms) -> None:
    classes = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 254], np.uint8)
    sampling = Sampling(Uniform(name="uniform"), store, 0)
    (_, truth), *_ = training_batches(store, classes, sampling, online, 10, 0)
    for place, number in enumerate(sampling.order(0)):
        assert truth[place].unique().tolist() == ([0, classes[number]] if classes[number] else [0])
        assert int(truth[place].count_nonzero()) == (store.masks[number].sum() if classes[number] else 0)
    _, held = next(iter(validation_batches(store, classes, 10)))
    np.testing.assert_array_equal(held[:, 0], store.masks * classes[:, None, None])


@pytest.mark.parametrize("online", [NOTHING, tiny.online("horizontal_flip", "rotate", "elastic")])
def test_what_is_not_annotated_stays_so_whatever_the_class(store: Packed, online: Transforms) -> None:
    masks = np.where(np.arange(32) < 20, store.masks, np.uint8(UNANNOTATED))
    partly = Packed(store.images, masks, store.index, store.geometry)
    classes = np.full(len(store.images), 7, np.uint8)
    for _, truth in training_batches(partly, classes, Sampling(Uniform(name="uniform"), partly, 0), online, 5, 0):
        assert truth.unique().tolist() == [0, 7, UNANNOTATED]


@pytest.mark.parametrize("online", [NOTHING, EVERYTHING])
def test_the_arrays_are_never_written(tmp_path: Path, online: Transforms) -> None:
    store = tiny.write_packed(tmp_path, 4)
    before = [(tmp_path / name).read_bytes() for name in ("images.npy", "masks.npy")]
    for batches in (training(store, 2, online=online), validation_batches(store, codes(store), 2)):
        for pixels, truth in batches:
            pixels += 1
            truth += 1
    assert [(tmp_path / name).read_bytes() for name in ("images.npy", "masks.npy")] == before


class Recorder(pl.LightningModule):
    """Keeps what it is given to train on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[Tensor]] = {}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch[0].clone())
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_lightning_moves_on_to_the_next_epochs_samples(store: Packed) -> None:
    recorder = Recorder()
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **quiet)
    trainer.fit(recorder, training(store, 4, online=EVERYTHING, first_epoch=5))
    for epoch in (0, 1):
        expected = [pixels for pixels, _ in training(store, 4, online=EVERYTHING, epoch=5 + epoch)]
        assert len(recorder.seen[epoch]) == len(expected) == 3
        assert all(torch.equal(*pair) for pair in zip(recorder.seen[epoch], expected, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("room", [0.5, 0.0], ids=["held", "sent"])
@pytest.mark.parametrize("online", [NOTHING, tiny.online("horizontal_flip", "rotate", "scale", "gamma")])
def test_a_gpu_gets_the_same_batches(
    store: Packed, room: float, online: Transforms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.training.dataloader.MEMORY_SHARE", room)
    sampling = Sampling(Uniform(name="uniform"), store, 0)
    gpu, cpu = (
        training_batches(store, codes(store), sampling, online, 4, 0, device=torch.device(name))
        for name in ("cuda", "cpu")
    )
    for ours, expected in zip(gpu, cpu, strict=True):
        assert ours[0].is_cuda
        torch.testing.assert_close(ours[0].cpu(), expected[0], rtol=0, atol=0.05)
        assert (ours[1].cpu() != expected[1]).float().mean() < 0.01
