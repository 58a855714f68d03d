"""Which samples an epoch sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.packed import Packed
from medseg.training.params import Balanced, Foreground, SamplingParams, Uniform
from medseg.training.sampler import Sampling, annotated_shares

UNIFORM = Uniform(name="uniform")
BALANCED = Balanced(name="balanced")
SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 10_000)


def store_of(annotated: list[int], labels: list[str] | None = None) -> Packed:
    """Samples of 10 x 10 pixels, so many of which are annotated."""
    masks = np.array([np.arange(100) < count for count in annotated], np.uint8).reshape(-1, 10, 10)
    index = pd.DataFrame({"label": labels or ["a"] * len(annotated)})
    return Packed(np.zeros((*masks.shape, 1), np.uint8), masks, index, tiny.resize(side=10))


def foreground(share: float, least: float = 0.5) -> Foreground:
    return Foreground(name="foreground", share=share, least=least)


def test_annotated_shares_are_counted() -> None:
    assert annotated_shares(store_of([0, 1, 25, 100])).tolist() == [0.0, 0.01, 0.25, 1.0]


@given(count=st.integers(1, 40), seed=SEEDS, epoch=EPOCHS)
def test_uniform_draws_every_sample_once(count: int, seed: int, epoch: int) -> None:
    order = Sampling(UNIFORM, store_of([0] * count), seed).order(epoch)
    assert sorted(order.tolist()) == list(range(count))


@given(
    annotated=st.lists(st.sampled_from([0, 49, 50, 100]), min_size=1, max_size=30).filter(
        lambda found: max(found) >= 50
    ),
    share=st.floats(0.01, 1),
    epoch=EPOCHS,
)
def test_foreground_gets_its_share_and_no_sample_returns_before_all_came(
    annotated: list[int], share: float, epoch: int
) -> None:
    order = Sampling(foreground(share), store_of(annotated), seed=3).order(epoch)
    count, chosen = len(annotated), round(share * len(annotated))
    rich = [number for number, pixels in enumerate(annotated) if pixels >= 50]
    times = np.bincount(order, minlength=count)
    assert len(order) == count
    assert times[rich].sum() >= chosen
    # From the pool of rich samples each comes floor or ceil of chosen / rich times; from all samples at most once.
    assert all(chosen // len(rich) <= times[number] <= -(-chosen // len(rich)) + 1 for number in rich)
    assert max(np.delete(times, rich), default=0) <= 1


def test_foreground_alone_is_drawn_where_its_share_is_1() -> None:
    order = Sampling(foreground(1.0), store_of([0, 60, 0, 60, 0, 60, 0, 0]), seed=0).order(0)
    assert sorted(np.bincount(order, minlength=8).tolist()) == [0, 0, 0, 0, 0, 2, 3, 3]


def test_a_sample_with_just_enough_annotated_counts_as_foreground() -> None:
    order = Sampling(foreground(1.0, least=0.25), store_of([24, 25]), seed=0).order(0)
    assert order.tolist() == [1, 1]


@given(labels=st.lists(st.sampled_from("abc"), min_size=1, max_size=40), epoch=EPOCHS)
def test_balanced_draws_labels_equally_often(labels: list[str], epoch: int) -> None:
    order = Sampling(BALANCED, store_of([0] * len(labels), labels), seed=5).order(epoch)
    times = np.bincount(order, minlength=len(labels))
    by_label = [times[[number for number, own in enumerate(labels) if own == label]] for label in sorted(set(labels))]
    assert len(order) == len(labels)
    assert np.ptp([part.sum() for part in by_label]) <= 1
    assert all(np.ptp(part) <= 1 for part in by_label)  # nobody again before all of the label were drawn


@pytest.mark.parametrize("params", [UNIFORM, BALANCED, foreground(0.5)])
def test_seed_and_epoch_alone_decide_the_order(params: Any) -> None:
    store = store_of([60, 0] * 15, ["a", "b", "c"] * 10)
    first, again, other = (Sampling(params, store, seed) for seed in (1, 1, 2))
    late = first.order(7).tolist()
    np.random.seed(0)
    assert again.order(7).tolist() == late  # no epoch before it, and another state of the global generator
    assert first.order(7).tolist() == late
    assert first.order(8).tolist() != late
    assert other.order(7).tolist() != late


def test_too_much_foreground_asked_for_names_the_key() -> None:
    with pytest.raises(UserError, match=r"sampling\.least = 0\.5"):
        Sampling(foreground(0.3), store_of([0, 49]), seed=0)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"name": "foreground", "share": 0.0, "least": 0.1}, r"sampling\.share = 0\.0"),
        ({"name": "foreground", "share": 0.3, "least": 1.0}, r"sampling\.least = 1\.0"),
        ({"name": "uniform", "share": 0.3}, r"sampling\.share"),
    ],
)
def test_values_out_of_range_are_named(section: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        validate(section, SamplingParams, "sampling")


def test_a_store_on_disk_is_balanced_by_the_labels_of_its_index(tmp_path: Path) -> None:
    store = tiny.write_packed(tmp_path, 9, labels=["benign", "benign", "malignant"])
    order = Sampling(BALANCED, store, seed=0).order(0)
    assert sorted(store.index["label"].iloc[order].value_counts().tolist()) == [4, 5]
