"""Which images a network has seen: known again by bytes, patient or look, and named nowhere."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.data.training_images import (
    NEAR,
    find_overlap,
    no_images,
    overlap_of_networks,
    read_overlap,
    read_training_images,
    training_images,
    with_val,
    write_training_images,
)

HASHES = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


def index(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Samples of images given by the digit of their hash, perceptual hash and patient."""
    return pd.DataFrame(
        [
            {"file": f"{number}.png", "sha256": digit * 64, "phash": phash, "patient": patient}
            for number, (digit, phash, patient) in enumerate(rows)
        ]
    )


def manifest(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """The same with a split before."""
    return index(*(row[1:] for row in rows)).assign(split=[row[0] for row in rows])


FAR, CLOSE, OTHER = "0" * 16, "0" * 15 + "f", "f" * 16
SEEN = training_images(index(("1", FAR, "Ada"), ("2", FAR, "")), index(("3", OTHER, "Bo")), no_images())


def found(*rows: tuple[str, str, str, str], seen: pd.DataFrame = SEEN) -> list[tuple[Any, ...]]:
    overlap = find_overlap(manifest(*rows), seen)
    return list(overlap.itertuples(index=False, name=None))


MIDDLE = "00000000ffffffff"  # 32 bits from FAR and from OTHER


def test_an_image_is_known_by_its_bytes_its_patient_and_its_look() -> None:
    rows = [
        ("test", "1", MIDDLE, ""),
        ("test", "9", MIDDLE, "Ada"),
        ("test", "9", CLOSE, ""),
        ("test", "9", "0" * 14 + "1f", ""),
        ("test", "9", MIDDLE, "C"),
    ]
    told = [("0.png", "test", "same file"), ("1.png", "test", "same patient"), ("2.png", "test", "near-duplicate")]
    assert found(*rows) == told


def test_train_may_hold_what_a_network_has_seen_and_val_what_chose_its_epoch_but_test_neither() -> None:
    rows = [(split, digit, MIDDLE, "") for split in ("train", "val", "test", "dropped") for digit in "123"]
    assert [(file, split) for file, split, _ in found(*rows)] == [
        *(("3.png", "val"), ("4.png", "val")),
        *(("6.png", "test"), ("7.png", "test"), ("8.png", "test")),
    ]


def test_what_trained_the_initial_network_counts_as_what_trained_the_next() -> None:
    after = training_images(index(("4", MIDDLE, "Cy")), index(("5", MIDDLE, "")), SEEN)
    rows = [("test", "1", "0f" * 8, ""), ("test", "9", "0f" * 8, "Ada"), ("test", "9", "0f" * 8, "Cy")]
    assert [reason for *_, reason in found(*rows, seen=after)] == ["same file", "same patient", "same patient"]


def test_no_name_of_a_file_or_patient_is_written_and_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    samples = index(("1", FAR, "Ada Lovelace"), ("2", FAR, "Ada Lovelace"))
    for name in ("first", "again"):
        write_training_images(training_images(samples, index(("3", OTHER, "")), no_images()), tmp_path / name)
    text = (tmp_path / "first/training_images.csv").read_text()
    assert text == (tmp_path / "again/training_images.csv").read_text()
    assert not any(name in text for name in ("Ada", "Lovelace", ".png"))
    images = read_training_images(tmp_path / "first")
    assert images["patient"].nunique() == 2  # one of the two images, and none
    elsewhere = training_images(index(("4", FAR, "Ada Lovelace")), index(("5", FAR, "")), no_images())
    assert not set(elsewhere["patient"]) & set(images["patient"]) - {""}


def test_an_image_of_val_that_gave_no_sample_has_tuned_the_segmenter_all_the_same() -> None:
    table = manifest(("val", "3", OTHER, "Bo"), ("val", "4", OTHER, "Cy"), ("test", "5", OTHER, ""))
    segmenter = with_val(SEEN, table)
    assert segmenter.loc[segmenter["use"] == "val", "sha256"].tolist() == ["4" * 64, "3" * 64]
    pd.testing.assert_frame_equal(with_val(segmenter, table), segmenter)


def test_an_image_of_many_samples_has_one_row() -> None:
    samples = pd.concat([index(("1", FAR, ""))] * 7)
    assert len(training_images(samples, index(("2", FAR, "")), no_images())) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(HASHES, min_size=1, max_size=8), st.lists(HASHES, max_size=8), st.data())
def test_near_duplicates_are_those_within_the_distance(ours: list[str], theirs: list[str], data: st.DataObject) -> None:
    theirs += [f"{int(value, 16) ^ data.draw(st.integers(0, 2**7 - 1)):016x}" for value in ours[:2]]
    seen = training_images(index(*(("1", phash, "") for phash in theirs)), index(("2", ours[0], "")), no_images())
    seen = seen[seen["use"] == "train"]
    overlap = find_overlap(manifest(*(("val", "9", phash, "") for phash in ours)), seen)
    near = [
        f"{number}.png"
        for number, value in enumerate(ours)
        if any((int(value, 16) ^ int(other, 16)).bit_count() <= NEAR for other in theirs)
    ]
    assert overlap["file"].tolist() == near


def test_every_network_in_a_folder_is_looked_at(tmp_path: Path) -> None:
    write_training_images(SEEN, tmp_path / "weights/first")
    write_training_images(no_images(), tmp_path / "weights/clean")
    (tmp_path / "weights/encoder.pth").touch()
    table = overlap_of_networks(manifest(("test", "1", MIDDLE, "")), tmp_path / "weights")
    table.to_csv(tmp_path / "overlap.csv", index=False)
    assert read_overlap(tmp_path / "overlap.csv", "first")["file"].tolist() == ["0.png"]
    assert read_overlap(tmp_path / "overlap.csv", "clean").empty


@pytest.mark.parametrize("content", [b"", b"use,sha256\n", b"use,sha256,phash,patient\ntrain,1,x,\n", b"\xff\x00"])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "training_images.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"training_images\.csv"):
        read_training_images(tmp_path)
