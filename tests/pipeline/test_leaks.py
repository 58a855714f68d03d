"""Nothing of val or test reaches what it must not: groups, samples by their pixels, choices, weights."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from extras import HAS_CRF
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import read_yaml, validate
from medseg.data.image_io import Pixels, read_image, write_png
from medseg.data.manifest import ManifestParams, measure, write_manifest
from medseg.data.packed import Packed, open_packed
from medseg.data.splits import SplitParams, assign
from medseg.datasets.record import Record
from medseg.experiments.compose import compose

CONF = Path(__file__).parents[2] / "conf"
SPLITS = ("train", "val", "test")
COLOURS = {"train": 0, "val": 1, "test": 2}  # the channel in which images of a split are bright
STRONG = {  # everything that may happen to a sample, all at once
    **dict.fromkeys(("horizontal_flip", "vertical_flip"), 0.5),
    "quarter_turns": 0.0,  # for squares alone
    "rotate": {"p": 1.0, "degrees": 30},
    "scale": {"p": 1.0, "share": 0.3},
    "elastic": {"p": 0.5, "alpha": 300, "sigma": 6},
    "brightness_contrast": {"p": 1.0, "brightness": 0.2, "contrast": 0.2},
    "gamma": {"p": 0.5, "percent": 20},
    "gaussian_noise": {"p": 1.0, "deviation": 0.05},
    "blur": {"p": 0.5, "sigma": 1.0},
}
GEOMETRIES: list[dict[str, Any]] = [
    {"name": "resize", "channels": 3, "height": 24, "width": 24, "aspect": "keep", "small_objects": "drop"},
    {"name": "scale", "channels": 3, "factor": 0.75, "small_objects": "drop"},
    {"name": "patchify", "channels": 3, "patch": 16, "stride": 8, "border": "pad"},
]
ONE_THREAD = ["machine.workers=1", "machine.backend=threading", "machine.accelerator=cpu"]


# Groups.


@st.composite
def images(draw: st.DrawFn) -> pd.DataFrame:
    """12 to 40 images of a few patients, groups, labels and published splits, all drawn apart from each other."""
    count = draw(st.integers(12, 40))

    def column(values: Sequence[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))

    columns = {"file": [f"{number:02d}.png" for number in range(count)], "label": column("abc")}
    return pd.DataFrame(columns | {"group": column([f"g{n}" for n in range(16)]), "official": column(SPLITS)})


def split_params(**values: Any) -> Any:
    return validate(values, SplitParams, "split")


def places(table: pd.DataFrame, splits: pd.Series) -> dict[str, set[str]]:
    """The splits in which each group has images."""
    return {str(group): set(splits[rows]) & set(SPLITS) for group, rows in table.groupby("group").groups.items()}


@given(table=images(), seed=st.integers(0, 99), fold=st.integers(0, 2), folded=st.booleans())
@settings(max_examples=30)
def test_no_group_spans_two_splits_that_are_drawn_here(table: pd.DataFrame, seed: int, fold: int, folded: bool) -> None:
    drawn = {"name": "folds", "folds": 3, "fold": fold} if folded else {"name": "fraction", "test": 0.25}
    splits = attempt(table, split_params(**drawn, seed=seed, val=0.25), Path())
    if isinstance(splits, str):
        assert "leaves no image" in splits or "there are only" in splits
        assert table["group"].nunique() < 9
        return
    assert all(len(found) == 1 for found in places(table, splits).values())
    assert set(splits) == set(SPLITS)


def test_a_mirrored_inverted_copy_never_lies_in_another_split(tmp_path: Path) -> None:
    records = []
    for number in range(12):
        pixels = tiny.noise(40, 50 + number)
        tiny.image(tmp_path, f"{number}.png", pixels, np.ones(pixels.shape[:2], np.uint8))
        tiny.image(tmp_path, f"{number} copy.png", 255 - pixels[:, ::-1], np.ones(pixels.shape[:2], np.uint8))
        records += [Record(f"{name}.png", (f"{name}_mask.png",), "a") for name in (f"{number}", f"{number} copy")]
    table, _ = measure(records, tmp_path, ManifestParams(bad_files="fail", duplicate_distance=14), tiny.CPU)
    splits = assign(table, split_params(name="fraction", seed=0, val=0.3, test=0.3), tmp_path)
    assert list(splits[::2]) == list(splits[1::2])
    assert table["group"].nunique() == 12


@pytest.mark.parametrize("source", ["official", "lists", "pattern"])
@given(table=images())
@settings(max_examples=15)
def test_straddling_does_what_it_says_to_splits_of_others(source: str, table: pd.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as folder:
        published = publish(source, table, Path(folder))
        found = {
            straddling: attempt(table, split_params(**published, straddling=straddling), Path(folder))
            for straddling in ("keep", "drop_from_train", "fail")
        }
    given_splits = table["official"]
    beyond = {group for group, where in places(table, given_splits).items() if len(where) > 1}
    to_drop = (given_splits == "train") & table["group"].isin(beyond)
    dropped = given_splits.where(~to_drop, "dropped")
    assert_kept_or_refused(found["keep"], given_splits, "leaves no image")
    assert_kept_or_refused(found["drop_from_train"], dropped, "leaves no image")
    if beyond:
        assert isinstance(found["fail"], str)
    else:
        assert_kept_or_refused(found["fail"], given_splits, "leaves no image")
    if not isinstance(found["drop_from_train"], str):
        after = places(table, found["drop_from_train"])
        assert not any("train" in where and len(where) > 1 for where in after.values())


def publish(source: str, table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """The split of the column `official`, in the form in which a source gives it."""
    if source == "lists":
        (folder / "given").mkdir()
        for split in SPLITS:
            names = table.loc[table["official"] == split, "file"]
            (folder / "given" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        return {"name": "lists", "folder": "given"}
    if source == "pattern":
        table["file"] = table["official"] + table["file"]
        return {"name": "pattern", "val": "val*", "test": "test*"}
    return {"name": "official"}


def attempt(table: pd.DataFrame, params: Any, lists: Path) -> pd.Series | str:
    """The splits, or the message of a refusal."""
    try:
        return assign(table, params, lists)
    except UserError as error:
        return str(error)


def assert_kept_or_refused(found: pd.Series | str, wanted: pd.Series, refusal: str) -> None:
    """A refusal is right where a split would be empty; of lists, a test set is not asked for."""
    if isinstance(found, str):
        assert refusal in found
        assert not set(SPLITS) <= set(wanted)
    else:
        assert list(found) == list(wanted)


# Samples.


def paint(split: str, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A noisy image of random size that shows by its pixels which split it is of, and its mask."""
    height, width = (int(side) for side in rng.integers(18, 40, 2))
    image = rng.integers(0, 10, (height, width, 3), np.uint8)
    image[..., COLOURS[split]] = rng.integers(170, 200, (height, width), np.uint8)
    return image, rng.integers(0, 2, (height, width), np.uint8)


def shown_split(image: Pixels) -> set[str]:
    """The splits of which a part of a sample (H, W, 3) is; what is padded is of none."""
    bright = image.reshape(-1, 3).astype(int)
    ahead = bright.max(axis=1) - np.median(bright, axis=1) > 60
    return {split for split, channel in COLOURS.items() if (bright[ahead].argmax(axis=1) == channel).any()}


@given(
    splits=st.permutations([*SPLITS] * 2 + ["train"]),
    geometry=st.sampled_from(GEOMETRIES),
    factor=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=3)
def test_every_sample_of_train_leads_back_to_an_image_of_train_by_its_pixels(
    splits: list[str], geometry: dict[str, Any], factor: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            tiny.row(folder / "raw", f"{number}.png", *paint(split, rng), split=split)
            for number, split in enumerate(splits)
        ]
        augmented, train, val = prepared_and_augmented(folder, rows, geometry, factor, seed)
        of_split = {split: {row["file"] for row in rows if row["split"] == split} for split in SPLITS}
        assert [shown_split(image) for image in augmented.images] == [{"train"}] * len(train.images) * factor
        assert [shown_split(image) for image in val.images] == [{"val"}] * len(val.images)
        assert set(augmented.index["file"]) == set(train.index["file"]) == of_split["train"]
        assert set(val.index["file"]) == of_split["val"]
        np.testing.assert_array_equal(augmented.images[::factor], train.images)


def prepared_and_augmented(
    folder: Path, rows: list[dict[str, Any]], geometry: dict[str, Any], factor: int, seed: int
) -> tuple[Packed, Packed, Packed]:
    """What the stages make of the images: the samples to train on, those before augmentation, and those of val."""
    from stages.augment import main as augment
    from stages.prepare import main as prepare

    sections = {
        "intensity": {"name": "full"},
        "prepare": geometry,
        "augment": STRONG | {"factor": factor, "seed": seed},
        "machine": dict(tiny.CPU),
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    write_manifest(pd.DataFrame(rows), folder / "manifest.csv")
    prepare(*(folder / name for name in ("params.yaml", "raw", "manifest.csv", "prepared", "samples.png")))
    augment(*(folder / name for name in ("params.yaml", "prepared/train", "augmented", "variants.png")))
    return (
        open_packed(folder / "augmented"),
        open_packed(folder / "prepared/train"),
        open_packed(folder / "prepared/val"),
    )


# Choices and weights.

SMALL = [
    *("data=phantom", "data.benign=14", "data.malignant=14", "data.normal=3", "data.width=[64,80]", "split.val=0.5"),
    *("prepare.height=32", "prepare.width=32", "augment.factor=2", "train.epochs=2", "train.batch_size=4"),
    *("model=unet_plain", "model.init_features=4", f"evaluate.crf.use={'val' if HAS_CRF else 'never'}", *ONE_THREAD),
]


class Run:
    """A run of the real stages in a folder."""

    def __init__(self, folder: Path, overrides: Sequence[str] = SMALL) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "weights").mkdir(exist_ok=True)
        compose(CONF, folder / "params.yaml", list(overrides))

    def stage(self, name: str, *paths: str) -> None:
        """Run a stage on paths in the folder."""
        from importlib import import_module

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DVC_ROOT", str(self.folder))  # no project: training keeps no state
            import_module(f"stages.{name}").main(*(self.folder / path for path in ("params.yaml", *paths)))

    def tabulate(self) -> None:
        (self.folder / "lists").mkdir(exist_ok=True)
        self.stage("manifest", "raw", "lists", "weights", "manifest.csv", "splits", "overlap.csv", "audit.json")

    def train(self) -> None:
        made = ("network", "metrics", "train.json", "logs", "environment.json")
        self.stage("train", "augmented", "prepared/val", "weights", "overlap.csv", *made)

    def finish(self) -> None:
        """All from the manifest on."""
        self.tabulate()
        self.stage("prepare", "raw", "manifest.csv", "prepared", "samples.png")
        self.stage("augment", "prepared/train", "augmented", "variants.png")
        self.train()
        made = ("segmenter", "predictions", "evaluate.json", "plots", "environment.json")
        self.stage("evaluate", "raw", "manifest.csv", "audit.json", "network", *made)

    def content(self, *names: str) -> dict[str, bytes]:
        """The files below some folders."""
        found = (path for name in names for path in sorted((self.folder / name).rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs that differ in the masks of the test images alone, which are turned inside out in the second."""
    folder = tmp_path_factory.mktemp("leaks")
    plain = Run(folder / "plain")
    plain.stage("download", "raw")
    flipped = Run(folder / "flipped")
    shutil.copytree(plain.folder / "raw", flipped.folder / "raw")
    plain.finish()
    table = pd.read_csv(plain.folder / "manifest.csv", keep_default_na=False)
    for mask in ";".join(table.loc[table["split"] == "test", "mask"]).split(";"):
        write_png(flipped.folder / "raw" / mask, np.uint8(255) - read_image(flipped.folder / "raw" / mask))
    flipped.finish()
    return plain, flipped


def test_the_masks_of_test_change_what_is_scored(runs: tuple[Run, Run]) -> None:
    """Or the tests below would show nothing."""
    plain, flipped = (run.content("predictions")["predictions/per_image.csv"] for run in runs)
    assert plain != flipped


def test_the_masks_of_test_change_nothing_that_is_learned_or_chosen(runs: tuple[Run, Run]) -> None:
    plain, flipped = runs
    for made in ("splits", "prepared", "augmented", "network", "metrics"):
        assert plain.content(made) == flipped.content(made) != {}, made
    for made in ("segmenter/model.yaml", "segmenter/weights.safetensors"):
        assert (plain.folder / made).read_bytes() == (flipped.folder / made).read_bytes(), made


def test_each_choice_was_val_s_to_make(runs: tuple[Run, Run]) -> None:
    """Of threshold, post-processing, test-time augmentation and CRF none was fixed beforehand."""
    options = [option["option"] for option in read_yaml(runs[0].folder / "segmenter/model.yaml")["chosen"]["options"]]
    assert options == [
        "test_time_augmentation",
        "threshold",
        *(["crf.use"] if HAS_CRF else []),
        "fill_holes",
        "smallest_object",
        "largest_component",
    ]


def test_the_masks_that_are_predicted_for_test_do_not_depend_on_its_truth(runs: tuple[Run, Run]) -> None:
    plain, flipped = (run.content("predictions/masks", "predictions/uncertainty") for run in runs)
    assert plain == flipped != {}


def test_val_chooses_the_epoch_but_enters_neither_weights_nor_what_normalises_them(
    runs: tuple[Run, Run], tmp_path: Path
) -> None:
    """Of one epoch, so that there is nothing to choose: the same arrays to train on, quite another val."""
    found: list[dict[str, bytes]] = []
    for name in ("as it was", "turned inside out"):
        run = Run(tmp_path / name, [*SMALL, "train.epochs=1"])
        for part in ("augmented", "prepared"):
            shutil.copytree(runs[0].folder / part, run.folder / part)
        if found:
            for array in ("images", "masks"):
                path = run.folder / "prepared/val" / f"{array}.npy"
                np.save(path, np.load(path).max() - np.load(path))
        run.train()
        found.append(run.content("network"))
    names = ["weights.safetensors", "optimizer.safetensors"]
    assert all(found[0][f"network/{name}"] == found[1][f"network/{name}"] for name in names)
    scores = [yaml.safe_load(network["network/model.yaml"])["training"]["val_dice"] for network in found]
    assert scores[0] != scores[1]


@pytest.mark.slow
def test_a_network_of_another_split_is_refused_as_a_start_or_told_in_model_and_card(
    runs: tuple[Run, Run], tmp_path: Path
) -> None:
    """What trained it under one seed of the split is in val and test under the next."""
    start = "train.init_from=first"
    run = Run(tmp_path / "other split", [*SMALL, "split.seed=1", start])
    shutil.copytree(runs[0].folder / "network", run.folder / "weights/first")
    shutil.copytree(runs[0].folder / "raw", run.folder / "raw")
    with pytest.raises(UserError, match=r"of test .*same file.*of val .*train\.initial_overlap=warn"):
        run.finish()
    assert not (run.folder / "network").exists()
    compose(CONF, run.folder / "params.yaml", [*SMALL, "split.seed=1", start, "train.initial_overlap=warn"])
    run.finish()
    for told in ("network/model.yaml", "segmenter/model.yaml", "segmenter/README.md"):
        assert "the initial network first has seen" in " ".join((run.folder / told).read_text().split())
    same = Run(tmp_path / "same split", [*SMALL, start])
    shutil.copytree(runs[0].folder / "network", same.folder / "weights/first")
    shutil.copytree(runs[0].folder / "raw", same.folder / "raw")
    same.finish()
    assert "has seen" not in (same.folder / "segmenter/README.md").read_text()
