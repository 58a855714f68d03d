"""What leaking would have brought: variants of one image in train and in test, on the BUSI sample.

A fifth of the images, whole groups, is kept from both ways: the new images. The rest is split in two ways, both
with 70 % to train, 10 % to val and 20 % to test. The older project's: seven variants of every image first, then all
samples are dealt at random, so that variants of most images lie on all sides. Ours: whole groups are dealt first,
then seven variants are made of train alone. Each way reports the Dice on its own test samples; then its network
segments the new images, which tells what the report was worth. All else is equal: network, epochs, seeds. Dice is the
mean over the samples with a lesion, at their size, threshold 0.5, nothing after it.

Run in the project's root, ten minutes on a core:
`MEDSEG_DATA=/path/to/data OMP_NUM_THREADS=1 python -m benchmarks.studies.leak`. The table is printed, and all scores
are written to benchmarks/studies/results/leak.json.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.measuring import machine
from medseg.core.markdown import table as table_text
from medseg.core.parallel import MachineParams
from medseg.core.params import read_section
from medseg.data.geometry import Geometry
from medseg.data.image import images_of
from medseg.data.manifest import read_manifest
from medseg.data.packed import Packed, create_arrays, describe_arrays, open_packed
from medseg.data.prepare import prepare
from medseg.data.splits import Fraction, assign
from medseg.experiments.compose import compose
from medseg.inference.torch_backend import choose_device, network_forward
from medseg.metrics.overlap import count_pixels, overlap_scores
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import Description

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
OLDER, OURS = "x7, then a random split of the samples", "a split of whole groups, then x7 of train"
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}  # of samples in the older way, of images in ours
Scores = dict[str, dict[str, list[float]]]  # by way: what it reports, what it reaches on new images, by seed


def main() -> None:
    """Run both ways for every seed, print the table and write the scores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    scores: Scores = {way: {"reported": [], "new": []} for way in (OLDER, OURS)}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for way, found in both_ways(Path(folder), seed, options.epochs).items():
                print(f"seed {seed}: {way}: {json.dumps(found)}", flush=True)
                for kind, dice in found.items():
                    scores[way][kind].append(round(dice, 6))
    print(table(scores))
    content = {"epochs": options.epochs, "seeds": options.seeds, "dice": scores, "machine": machine()}
    (RESULTS / "leak.json").write_text(json.dumps(content, indent=2) + "\n")


def both_ways(folder: Path, seed: int, epochs: int) -> dict[str, dict[str, float]]:
    """Dice that each way reports, and that on the new images."""
    place = prepared(folder, seed, epochs)
    augment(place, "prepared/train", "augmented")
    ours = trained(place, "augmented", "prepared/val", "ours")
    pool = [open_packed(place / "prepared" / split) for split in SHARES]
    write_packed(place / "pool", pool, [np.arange(len(store.images)) for store in pool])
    augment(place, "pool", "variants")
    deal(open_packed(place / "variants"), place, seed)
    older = trained(place, "dealt/train", "dealt/val", "older")
    tests = {OLDER: (older, "dealt/test"), OURS: (ours, "prepared/test")}
    new = open_packed(place / "new")
    return {
        way: {"reported": mean_dice(network, open_packed(place / test)), "new": mean_dice(network, new)}
        for way, (network, test) in tests.items()
    }


def prepared(folder: Path, seed: int, epochs: int) -> Path:
    """A folder with the samples of the new images in `new`, and of our train, val and test in `prepared`."""
    from stages.download import main as download
    from stages.manifest import main as tabulate

    place = folder / str(seed)
    place.mkdir()
    params, raw, manifest = place / "params.yaml", folder / "raw", place / "manifest.csv"
    seeds = [f"{section}={seed}" for section in ("seed", "split.seed", "augment.seed")]
    lengths = [f"train.epochs={epochs}", f"train.patience={epochs}"]
    compose(ROOT / "conf", params, ["experiment=sample_busi", *seeds, *lengths])
    if not raw.exists():
        download(params, raw)
    made = (manifest, place / "splits", place / "overlap.csv", place / "audit.json")
    tabulate(params, raw, ROOT / "conf" / "lists", ROOT / "weights", *made)
    rows = read_manifest(manifest)
    workers = read_section(params, "machine", MachineParams)
    geometry: Geometry = read_section(params, "prepare", Geometry)
    is_new = rows["split"] == "test"
    prepare(images_of(rows[is_new], raw), geometry, workers, place / "new")
    ours = Fraction(name="fraction", seed=seed, val=SHARES["val"], test=SHARES["test"])
    splits = assign(rows[~is_new], ours, ROOT / "conf" / "lists")
    for split in SHARES:
        chosen = rows.loc[splits.index[splits == split]]
        prepare(images_of(chosen, raw), geometry, workers, place / "prepared" / split)
    return place


def augment(place: Path, source: str, target: str) -> None:
    """The stage augment."""
    from stages.augment import main as augment_stage

    augment_stage(place / "params.yaml", place / source, place / target, place / "variants.png")


def trained(place: Path, train: str, val: str, name: str) -> Path:
    """The stage train; the folder of its network."""
    from stages.train import main as train_stage

    network = place / name
    outputs = [place / f"{name} {what}" for what in ("metrics", "train.json", "logs", "environment.json")]
    train_stage(
        place / "params.yaml", place / train, place / val, ROOT / "weights", place / "overlap.csv", network, *outputs
    )
    return network


def deal(variants: Packed, place: Path, seed: int) -> None:
    """The older way's split: samples at random, whatever image they are of."""
    count = len(variants.images)
    order = np.random.default_rng(seed).permutation(count)
    borders = np.rint(np.cumsum([*SHARES.values()])[:-1] * count).astype(int)
    for split, samples in zip(SHARES, np.split(order, borders), strict=True):
        write_packed(place / "dealt" / split, [variants], [samples])


def write_packed(folder: Path, stores: Sequence[Packed], samples: Sequence[NDArray[np.int64]]) -> None:
    """Packed arrays of some samples of some stores, one after the other."""
    count = sum(map(len, samples))
    images, masks = create_arrays(folder, count, *stores[0].images.shape[1:])
    np.concatenate([store.images[chosen] for store, chosen in zip(stores, samples, strict=True)], out=images)
    np.concatenate([store.masks[chosen] for store, chosen in zip(stores, samples, strict=True)], out=masks)
    index = [store.index.iloc[chosen] for store, chosen in zip(stores, samples, strict=True)]
    describe_arrays(folder, pd.concat(index, ignore_index=True), stores[0].geometry)


def mean_dice(network: Path, samples: Packed) -> float:
    """The mean over the samples with a lesion."""
    trained_network, description = load_bundle(network, Description)
    forward = network_forward(trained_network, description.task, choose_device("auto"))
    predicted = forward(np.array(samples.images))[:, 0] > 0.5
    pairs = zip(predicted, samples.masks, strict=True)
    return statistics.mean(overlap_scores(count_pixels(mask, truth))["dice"] for mask, truth in pairs if truth.any())


def table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Mean and standard deviation over seeds, and what was reported beyond what new images bear out, seed by seed."""
    rows = []
    for way, found in scores.items():
        beyond = [reported - new for reported, new in zip(found["reported"], found["new"], strict=True)]
        rows.append([way, spread(found["reported"]), spread(found["new"]), spread(beyond, "+")])
    return table_text(["way", "Dice that it reports", "Dice on new images", "too much"], rows)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
