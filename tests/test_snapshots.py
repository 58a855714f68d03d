"""Training that stops somewhere and is started again: to the last bit what it would have been."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_training import PLAIN, RECIPE, SGD, TRAIN, equal, improved

from medseg.optimisation import Cosine, Plateau
from medseg.sampling import Sampling
from medseg.store import Store
from medseg.training import Places, Recipe, Trained, fit

EPOCHS = 4


class KilledError(Exception):
    """In the place of a signal."""


@dataclass(frozen=True)
class Run:
    """A folder in which runs of one recipe happen."""

    folder: Path
    stores: tuple[Store, Store]

    def train(self, recipe: Recipe) -> Trained:
        places = Places(
            self.folder / "weights", self.folder / "metrics", self.folder / "tensorboard", self.folder / "state"
        )
        trained = fit(*self.stores, recipe, places, tiny.CPU)
        assert trained is not None
        return trained

    def logged(self) -> dict[str, bytes]:
        folder = self.folder / "metrics"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def kill(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        """Train and stop when `after` epochs are finished; what was logged is deleted, as DVC deletes outs."""
        order = Sampling.order

        def killed(sampling: Sampling, epoch: int) -> Any:
            if epoch == after:
                raise KilledError
            return order(sampling, epoch)

        with monkeypatch.context() as patched:
            patched.setattr(Sampling, "order", killed)
            with pytest.raises(KilledError):
                self.train(recipe)
        for path in sorted((self.folder / "metrics").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    folder = tmp_path_factory.mktemp("stores")
    return tiny.write_store(folder / "train", 5), tiny.write_store(folder / "val", 3, seed=1)


@pytest.fixture(autouse=True)
def write_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.snapshots.SPARING", 0)


def recipe(start: Recipe = RECIPE, **train: Any) -> Recipe:
    return replace(start, train=TRAIN.model_copy(update={"epochs": EPOCHS} | train))


COSINE = Cosine(name="cosine", warmup_epochs=0.5, final_share=0.1)
PLATEAU = Plateau(name="plateau", monitor="train/loss", factor=0.5, patience=0)
RECIPES = {
    "plain": recipe(),
    "a plateau that has moved": recipe(replace(RECIPE, scheduler=PLATEAU)),
    "a schedule by step": recipe(replace(RECIPE, scheduler=COSINE)),
    "averaged weights": recipe(ema_decay=0.7),
    "dropout": recipe(improved([1.0])),
    "online": recipe(replace(PLAIN, online=tiny.online("horizontal_flip", "gaussian_noise", p=0.5))),
    "momentum": recipe(replace(PLAIN, optimizer=SGD)),
    "channels last": recipe(channels_last=True),
    "bfloat16": recipe(precision="bf16-mixed"),
}


def assert_same(one: Trained, other: Trained) -> None:
    assert one.description == other.description
    assert equal(one.network.state_dict(), other.network.state_dict())
    assert one.scheduler_state == other.scheduler_state
    assert one.optimizer_state["param_groups"] == other.optimizer_state["param_groups"]
    for number, kept in one.optimizer_state["state"].items():
        assert equal(kept, other.optimizer_state["state"][number])


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    stores: tuple[Store, Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    whole, killed = (Run(tmp_path / which, stores) for which in ("whole", "killed"))
    undisturbed = whole.train(RECIPES[name])
    killed.kill(RECIPES[name], monkeypatch, after=2)
    capsys.readouterr()
    assert_same(undisturbed, killed.train(RECIPES[name]))
    assert "going on from epoch 2 of 4" in capsys.readouterr().out
    assert whole.logged() == killed.logged()
