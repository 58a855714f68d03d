"""Two processes on the CPU that train one network, against one process on the same data."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from sections import whole
from small_training import RECIPE, TRAIN
from torch import Tensor
from train_sections import NAMES, SECTIONS

from medseg.core.errors import UserError
from medseg.data.packed import Packed, open_packed
from medseg.models.checkpoint import save_bundle
from medseg.models.params import ImprovedUnet, Pspnet
from medseg.training.dataloader import Batches, Rank, training_batches, validation_batches
from medseg.training.params import BCE, BCEDice, Sgd, Uniform
from medseg.training.sampler import Sampling
from medseg.training.trainer import Folders, Recipe, fit

pytestmark = pytest.mark.timeout(400)

PROJECT = Path(__file__).parents[2]
# Without dropout and batch normalisation, and with a loss that is a mean over pixels, two processes do what one does
# but for rounding. It grows within a few steps: the instance normalisation of maps so small magnifies it.
STEADY = replace(
    RECIPE,
    model=ImprovedUnet(name="improved_unet", init_features=4, dropout=0.0, input_mean=[0.5], input_std=[0.5]),
    loss=BCE(name="bce", head_weights=[1.0]),
    optimizer=Sgd(
        name="sgd", fused=True, learning_rate=0.1, encoder_factor=1.0, momentum=0.9, nesterov=False, weight_decay=0.0
    ),
    online=tiny.online("horizontal_flip", "gaussian_noise", p=0.5),
)

PSPNET = Pspnet(  # stops at the third level of its encoder
    name="pspnet",
    encoder="resnet18",
    encoder_weights="none",
    psp_channels=8,
    dropout=0.0,
    input_mean=[0.5],
    input_std=[0.5],
)


def recipe(**train: Any) -> Recipe:
    values = {"epochs": 3, "batch_size": 6, "devices": 2} | train
    return replace(STEADY, train=TRAIN.model_copy(update=values))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven samples in batches of six and five, which two processes share unevenly, and seven to choose by."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_packed(folder / "train", 11)
    tiny.write_packed(folder / "val", 7, seed=1)
    return folder


def codes(store: Packed) -> Any:
    return torch.ones(len(store.images), dtype=torch.uint8).numpy()


def epoch_of(store: Packed, size: int, rank: Rank) -> Batches:
    sampling = Sampling(Uniform(name="uniform"), store, 3)
    return training_batches(store, codes(store), sampling, STEADY.online, size, 5, rank)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_a_step_are_the_batch_of_one_process(data: Path, world: int) -> None:
    store = open_packed(data / "train")
    whole = list(epoch_of(store, 6, Rank(0, 1)))
    shares = [list(epoch_of(store, 6, Rank(rank, world))) for rank in range(world)]
    assert [len(share) for share in shares] == [len(whole)] * world
    for step, batch in enumerate(whole):
        for part, together in enumerate(batch):
            assert torch.equal(torch.cat([share[step][part] for share in shares]), together)


def test_small_data_are_one_batch(data: Path) -> None:
    store = open_packed(data / "train")  # of eleven samples
    sizes = [[len(pixels) for pixels, _ in epoch_of(store, 64, Rank(rank, 2))] for rank in range(2)]
    assert sizes == [[6], [5]]


@pytest.mark.parametrize("world", [2, 3])
def test_every_sample_of_val_is_seen_once_and_no_process_takes_fewer_steps(data: Path, world: int) -> None:
    store = open_packed(data / "val")
    shares = [list(validation_batches(store, codes(store), 2, Rank(rank, world))) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    dealt = [share[step][0] for step in range(len(shares[0])) for share in shares]
    whole = [pixels for pixels, _ in validation_batches(store, codes(store), 2)]
    assert all(torch.equal(*pair) for pair in zip(dealt, whole, strict=False))  # the same batches, then empty ones
    assert [len(pixels) for pixels in dealt[len(whole) :]] == [0] * (len(dealt) - len(whole))


def test_batches_that_cannot_be_shared_evenly_are_refused(data: Path) -> None:
    store = open_packed(data / "train")
    with pytest.raises(UserError, match=r"train\.batch_size = 5"):
        epoch_of(store, 5, Rank(0, 2))
    with pytest.raises(UserError, match=r"train\.devices"):
        epoch_of(store, 12, Rank(0, 12))


def test_several_machines_without_a_meeting_place_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"train\.num_nodes = 2"):
        train(data, recipe(devices=1, num_nodes=2), tmp_path)
    assert not any(tmp_path.iterdir())


def train(data: Path, recipe: Recipe, folder: Path) -> bool:
    """Train and save as the stage does; whether this process was the one that saves."""
    folders = Folders(folder / "weights", folder / "metrics", folder / "logs")
    trained = fit(open_packed(data / "train"), open_packed(data / "val"), recipe, folders, tiny.CPU)
    if trained is None:
        return False
    save_bundle(folder, trained.network, trained.description)
    return True


@dataclass(frozen=True)
class Ended:
    """How a process ended: True where it saved, False where not, else the error in words."""

    saved: bool | None
    error: str


def as_rank(rank: int, port: int, data: Path, recipe: Recipe, folder: Path, ended: Any) -> None:
    """Take part as torchrun would have it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    try:
        ended.send(Ended(train(data, recipe, folder), ""))
    except Exception as error:
        ended.send(Ended(None, "".join(traceback.format_exception_only(error))))


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Starts processes that have everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_distributed"])
    return context


def together(forks: ForkServerContext, data: Path, recipe: Recipe, folder: Path) -> list[Ended]:
    """Train in two processes."""
    port = free_port()
    pipes = [forks.Pipe(duplex=False) for _ in range(2)]
    ranks = [
        forks.Process(target=as_rank, args=(rank, port, data, recipe, folder, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for rank in ranks:
        rank.start()
    results = [pipe[0].recv() for pipe in pipes if pipe[0].poll(120)]
    for rank in ranks:
        rank.join(20)
        rank.kill()
    return results


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scores(folder: Path) -> dict[str, list[float]]:
    tables = sorted((folder / "metrics/plots").rglob("*.tsv"))
    return {f"{table.parent.name}/{table.stem}": pd.read_csv(table, sep="\t").iloc[:, -1].tolist() for table in tables}


def weights(folder: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = load_file(folder / "weights.safetensors")
    return loaded


def still(recipe: Recipe) -> Recipe:
    """With steps too small to matter: what is left is what each epoch sees."""
    return replace(recipe, optimizer=STEADY.optimizer.model_copy(update={"learning_rate": 1e-12}))


@pytest.mark.slow
def test_two_processes_do_what_one_does(forks: ForkServerContext, data: Path, tmp_path: Path) -> None:
    """In one step, of shares of six and five: a second would magnify rounding until pixels of val change sides."""
    ended = together(forks, data, recipe(epochs=1, batch_size=12), tmp_path / "two")
    assert ended == [Ended(saved=True, error=""), Ended(saved=False, error="")]
    assert train(data, recipe(epochs=1, batch_size=12, devices=1), tmp_path / "one")
    one, two = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert set(one) == {"train/loss", "val/loss", "val/dice", "metrics/learning_rate"}
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5), name
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_every_epoch_sees_what_one_process_sees(forks: ForkServerContext, data: Path, tmp_path: Path) -> None:
    assert all(not end.error for end in together(forks, data, still(recipe(epochs=3)), tmp_path / "two"))
    train(data, still(recipe(epochs=3, devices=1)), tmp_path / "one")
    one, two = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert len(set(one["train/loss"])) == 3
    for name in ("train/loss", "val/loss", "val/dice"):
        assert two[name] == pytest.approx(one[name], rel=1e-6), name


@pytest.mark.slow
def test_val_metrics_are_those_of_one_process_for_a_loss_of_whole_batches(
    forks: ForkServerContext, data: Path, tmp_path: Path
) -> None:
    dice = BCEDice(name="bce_dice", bce_weight=0.5, dice_weight=0.5, smooth=1.0, head_weights=[1.0])
    one, two = (still(replace(recipe(devices=devices, epochs=1, ema_decay=0.5), loss=dice)) for devices in (1, 2))
    train(data, one, tmp_path / "one")
    assert all(not end.error for end in together(forks, data, two, tmp_path / "two"))
    for name in ("val/loss", "val/dice"):
        assert scores(tmp_path / "two")[name] == pytest.approx(scores(tmp_path / "one")[name], rel=1e-6)


@pytest.mark.slow
def test_a_network_with_an_encoder_that_is_used_in_part_trains(
    forks: ForkServerContext, data: Path, tmp_path: Path
) -> None:
    partly = replace(recipe(epochs=1), model=PSPNET)
    assert [end.saved for end in together(forks, data, partly, tmp_path)] == [True, False]


@pytest.fixture
def stage(data: Path, tmp_path: Path) -> Path:
    """A folder with all that the stage reads."""
    shutil.copytree(data / "train", tmp_path / "augmented")
    shutil.copytree(data / "val", tmp_path / "val")
    (tmp_path / "weights").mkdir()
    return tmp_path


def write_params(folder: Path, **train: Any) -> None:
    sections = {
        "train": SECTIONS["train"] | {"batch_size": 4} | train,
        "model": STEADY.model.model_dump(),
        "loss": STEADY.loss.model_dump(),
    }
    (folder / "params.yaml").write_text(whole(SECTIONS | sections))


def start_stage(folder: Path, *launcher: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the stage in `folder`, by itself or by a launcher."""
    ours = ("DVC_ROOT", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "PL_GLOBAL_SEED")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = {"PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*(launcher or (sys.executable,)), "-m", "stages.train", *NAMES],
        cwd=folder,
        env=kept | path | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", within: float) -> tuple[int, str]:
    """Exit code and output; a process that does not end in time is killed with all that it started."""
    try:
        said, _ = process.communicate(timeout=within)
    finally:
        kill_session(process.pid)
    return process.returncode, said


def kill_session(leader: int) -> None:
    for process in ranks_of(leader):
        os.kill(process, signal.SIGKILL)


def ranks_of(leader: int) -> list[int]:
    """The processes of a session that are no zombies, in the order of their numbers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it ended just now
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_the_stage_starts_its_ranks_itself_and_one_writes(stage: Path) -> None:
    write_params(stage, devices=2, epochs=2)
    process = start_stage(stage)
    code, said = ended(process, 200)
    assert (code, [line.split()[0] for line in said.splitlines()]) == (0, ["training", "epoch", "epoch"])
    assert pd.read_csv(stage / "metrics/train/plots/metrics/val/dice.tsv", sep="\t")["step"].tolist() == [1, 2]
    assert {path.name for path in (stage / "models").iterdir()} == {"network"}
    assert not ranks_of(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_stage_with_an_error(stage: Path, victim: int) -> None:
    write_params(stage, devices=2, epochs=100000, patience=100000)
    process = start_stage(stage)
    deadline = time.monotonic() + 200
    rows = stage / "metrics/train/plots/metrics/val/dice.tsv"
    while not rows.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(ranks_of(process.pid)[victim], signal.SIGKILL)
    died = time.monotonic()
    while ranks_of(process.pid):
        assert time.monotonic() - died < 20
        time.sleep(0.2)
    assert ended(process, 60)[0] != 0
    assert not (stage / "models").exists()


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_and_end_as_two_that_were_not(stage: Path) -> None:
    write_params(stage, devices=2, epochs=4)
    sections = yaml.safe_load((stage / "params.yaml").read_text())
    sections["model"]["dropout"] = 0.3  # of which each process draws its own
    (stage / "params.yaml").write_text(yaml.safe_dump(sections))
    (stage / ".dvc").mkdir()
    weights = stage / "models/network/weights.safetensors"
    assert ended(start_stage(stage), 200)[0] == 0
    undisturbed = load_file(weights)
    shutil.rmtree(stage / "models")
    killed = start_stage(stage)
    deadline = time.monotonic() + 200
    while not list((stage / ".dvc/tmp/medseg/training").glob("*/*/epoch-*")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_session(killed.pid)
    ended(killed, 60)
    code, said = ended(start_stage(stage), 200)
    assert code == 0
    assert "resuming from epoch" in said
    assert all(torch.equal(tensor, undisturbed[name]) for name, tensor in load_file(weights).items())


NODES = ("medseg-test-a", "medseg-test-b")


@pytest.fixture
def nodes() -> Iterator[None]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, joined by a cable."""
    with ExitStack() as undo:
        for node in NODES:
            made = subprocess.run(["ip", "netns", "add", node], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces can't be made here: {made.stderr.strip()}")
            undo.callback(subprocess.run, ["ip", "netns", "del", node], check=True)
        ip("link", "add", "cable-a", "netns", NODES[0], "type", "veth", "peer", "name", "cable-b", "netns", NODES[1])
        for number, (node, end) in enumerate(zip(NODES, ("cable-a", "cable-b"), strict=True), start=1):
            ip("-n", node, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", node, "link", "set", end, "up")
            ip("-n", node, "link", "set", "lo", "up")
        yield


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None, reason="no `ip` here to make network namespaces with")
@pytest.mark.usefixtures("nodes")
def test_two_machines_train_together(stage: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write_params(stage, num_nodes=2)
    other = tmp_path_factory.mktemp("other") / "stage"
    shutil.copytree(stage, other)
    processes = []
    for rank, (node, end, folder) in enumerate(zip(NODES, ("cable-a", "cable-b"), (stage, other), strict=True)):
        meeting = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", "--master-addr=10.77.0.1"]
        run = ["ip", "netns", "exec", node, sys.executable, "-m", "torch.distributed.run", *meeting]
        processes.append(start_stage(folder, *run, "--master-port=29511", GLOO_SOCKET_IFNAME=end))
    outcomes = [ended(process, 300) for process in processes]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert (stage / "models/network/weights.safetensors").is_file()
    assert (stage / "metrics/train/metrics.json").is_file()
    assert not (other / "models").exists()
    assert not (other / "metrics").exists()
