import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.splits import SplitParams, assign, expects_test, straddling_groups, uneven_shares, write_lists

NOWHERE = Path("no-lists")


def params(**values: Any) -> Any:
    return validate(values, SplitParams, "split")


def fraction(val: float = 0.2, test: float = 0.2, seed: int = 0) -> Any:
    return params(name="fraction", seed=seed, val=val, test=test)


def folds(fold: int, count: int = 5, val: float = 0.2, seed: int = 0) -> Any:
    return params(name="folds", seed=seed, folds=count, fold=fold, val=val)


def table_of(
    groups: Sequence[object], labels: Sequence[str] | None = None, official: Sequence[str] | None = None
) -> pd.DataFrame:
    """One image per entry, `a/00.png` and so on."""
    count = len(groups)
    return pd.DataFrame(
        {
            "file": [f"a/{number:02d}.png" for number in range(count)],
            "label": labels or ["lesion"] * count,
            "group": [str(group) for group in groups],
            "official": official or [""] * count,
        }
    )


def refused(*told: str) -> AbstractContextManager[object]:
    """A refusal that tells these, in this order."""
    return pytest.raises(UserError, match=".*".join(re.escape(part) for part in told))


def counts(splits: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in splits.value_counts().items()}


@st.composite
def grouped_tables(draw: st.DrawFn) -> pd.DataFrame:
    """20 to 100 images in groups of at most 5, with up to 4 labels; a group may hold several labels."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=20, max_size=40))
    groups = [name for name, size in enumerate(sizes) for _ in range(size)]
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=len(groups), max_size=len(groups)))
    order = draw(st.permutations(range(len(groups))))
    return table_of([groups[place] for place in order], labels)


def test_shares_are_met_within_every_label() -> None:
    table = table_of(range(100), ["benign"] * 50 + ["malignant"] * 30 + ["normal"] * 20)
    splits = assign(table, fraction(val=0.1, test=0.2), NOWHERE)
    found = splits.groupby(table["label"]).value_counts().unstack().to_dict("index")
    assert found == {
        "benign": {"train": 35, "val": 5, "test": 10},
        "malignant": {"train": 21, "val": 3, "test": 6},
        "normal": {"train": 14, "val": 2, "test": 4},
    }


def test_the_seed_alone_decides_who_goes_where() -> None:
    table = table_of(range(60), ["a", "b"] * 30)
    first, again, other = (assign(table, fraction(seed=seed), NOWHERE) for seed in (3, 3, 4))
    pd.testing.assert_series_equal(first, again)
    assert (first != other).any()
    assert counts(first) == counts(other)


def test_the_seed_alone_decides_who_goes_where_among_folds() -> None:
    table = table_of(range(60), ["a", "b"] * 30)
    first, again, other = (assign(table, folds(1, seed=seed), NOWHERE) for seed in (3, 3, 4))
    pd.testing.assert_series_equal(first, again)
    assert (first != other).any()


def test_large_groups_are_dealt_before_small_ones_which_can_still_even_out() -> None:
    table = table_of([*range(5), *["large"] * 5])
    for seed in range(5):
        splits = assign(table, fraction(val=0.5, test=0.0, seed=seed), NOWHERE)
        assert counts(splits) == {"train": 5, "val": 5}


def test_many_labels_of_one_image_still_fill_all_parts() -> None:
    table = table_of(range(20), [f"organ {number}" for number in range(20)])
    assert counts(assign(table, fraction(), NOWHERE)) == {"train": 12, "val": 4, "test": 4}


def test_six_images_give_one_to_val_and_one_to_test() -> None:
    table = table_of(range(6), ["benign"] * 4 + ["malignant"] * 2)
    assert counts(assign(table, fraction(val=0.17, test=0.17), NOWHERE)) == {"train": 4, "val": 1, "test": 1}


def test_without_a_test_share_there_is_no_test_set() -> None:
    splits = assign(table_of(range(10)), fraction(test=0.0), NOWHERE)
    assert counts(splits) == {"train": 8, "val": 2}
    assert not expects_test(fraction(test=0.0))
    assert expects_test(fraction())


def told(groups: Sequence[object], split: Any) -> list[str]:
    table = table_of(groups)
    return uneven_shares(table.assign(split=assign(table, split, NOWHERE)), split)


def test_folds_that_a_large_group_makes_uneven_are_told() -> None:
    (sentence,) = told(["large"] * 13 + list(range(7)), folds(0))
    assert "0 13 where 4 were asked for, 1 2 where 4 were" in sentence
    for fold in range(5):  # all are told, whichever is run
        assert told(["large"] * 13 + list(range(7)), folds(fold)) == [sentence]
    assert told(range(22), folds(0)) == []  # 5, 5, 4, 4 and 4


def test_fractions_that_a_large_group_makes_uneven_are_told() -> None:
    (sentence,) = told(["large"] * 30 + list(range(10)), fraction())
    assert "test" in sentence
    assert told(range(40), fraction()) == []
    given_split = params(name="official", straddling="keep")
    assert uneven_shares(table_of(range(4), official=["test"] * 4), given_split) == []


@given(table=grouped_tables(), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_fractions_keep_groups_whole_and_shares_near(table: pd.DataFrame, seed: int) -> None:
    splits = assign(table, fraction(seed=seed), NOWHERE)
    assert straddling_groups(splits, table["group"]) == []
    largest = table["group"].value_counts().max()
    for split, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        excess = int((splits == split).sum()) - share * len(table)
        assert excess < largest + 1e-9  # a part is never given a group when another is owed more
        assert excess > -2 * largest


@given(table=grouped_tables(), seed=st.integers(0, 9))
@settings(max_examples=10)
def test_folds_test_every_image_once_and_never_part_a_group(table: pd.DataFrame, seed: int) -> None:
    runs = [assign(table, folds(fold, seed=seed), NOWHERE) for fold in range(5)]
    times_tested = pd.concat([splits == "test" for splits in runs], axis=1).sum(axis=1)
    assert list(times_tested.unique()) == [1]
    largest = table["group"].value_counts().max()
    for splits in runs:
        assert set(splits) == {"train", "val", "test"}
        assert straddling_groups(splits, table["group"]) == []
        assert abs(int((splits == "test").sum()) - len(table) / 5) < 4 * largest


def test_folds_keep_labels_in_proportion_even_where_each_is_rare() -> None:
    table = table_of(range(50), ["benign"] * 30 + ["malignant"] * 20)
    for fold in range(5):
        tested = table["label"][assign(table, folds(fold), NOWHERE) == "test"]
        assert counts(tested) == {"benign": 6, "malignant": 4}
    rare = table_of(range(10), [f"organ {number}" for number in range(10)])
    assert [counts(assign(rare, folds(fold), NOWHERE))["test"] for fold in range(5)] == [2] * 5


def test_as_many_folds_as_groups_leave_one_group_out_each() -> None:
    table = table_of([1, 1, 2, 2, 3, 3, 4, 4])
    tested = [set(table["group"][assign(table, folds(fold, count=4), NOWHERE) == "test"]) for fold in range(4)]
    assert sorted(tested, key=min) == [{"1"}, {"2"}, {"3"}, {"4"}]


def test_folds_refuse_what_cannot_be() -> None:
    with refused("split.fold = 5"):
        assign(table_of(range(10)), folds(5), NOWHERE)
    with refused("split.folds = 5", "4"):
        assign(table_of([1, 1, 2, 2, 3, 3, 4, 4]), folds(0), NOWHERE)


def test_parts_that_would_be_empty_are_named() -> None:
    with refused("split", "'val'"):
        assign(table_of(range(3)), fraction(val=0.01, test=0.3), NOWHERE)
    with refused("split", "train"):
        assign(table_of(range(9)), fraction(val=0.5, test=0.5), NOWHERE)
    with pytest.raises(UserError, match=r"split: leaves no image for 'test' .*patterns see names of files alone"):
        assign(table_of(range(3)), params(name="pattern", val="00.*", test="no*", straddling="keep"), NOWHERE)


def test_patterns_look_at_names_and_test_goes_first() -> None:
    table = table_of(range(13))
    splits = assign(table, params(name="pattern", val="*1.png", test="1?.png", straddling="keep"), NOWHERE)
    assert list(table["file"][splits == "test"]) == ["a/10.png", "a/11.png", "a/12.png"]
    assert list(table["file"][splits == "val"]) == ["a/01.png"]
    without = params(name="pattern", val="*1.png", test=None, straddling="keep")
    assert counts(assign(table, without, NOWHERE)) == {"train": 11, "val": 2}
    assert not expects_test(without)


def test_patterns_see_the_last_part_of_a_path_however_deep_it_lies() -> None:
    table = table_of(range(4)).assign(file=["v.png", "a/b/v.png", "v/a.png", "a/v/b/c.png"])
    splits = assign(table, params(name="pattern", val="v*", test=None, straddling="keep"), NOWHERE)
    assert list(splits) == ["val", "val", "train", "train"]


def test_official_splits_are_taken_as_they_are_or_missed_by_name() -> None:
    official = params(name="official", straddling="keep")
    assert list(assign(table_of("abc", official=["train", "val", "test"]), official, NOWHERE)) == [
        "train",
        "val",
        "test",
    ]
    with refused("a/01.png and 1 more"):
        assign(table_of("abc", official=["train", "", ""]), official, NOWHERE)
    with pytest.raises(UserError, match="no image for 'test'"):
        assign(table_of("ab", official=["train", "val"]), official, NOWHERE)


@pytest.mark.parametrize("straddling", ["keep", "drop_from_train", "fail"])
def test_a_group_on_both_sides_is_kept_dropped_or_refused(straddling: str) -> None:
    table = table_of(["x", "x", "y", "z", "x"], official=["train", "val", "train", "test", "train"])
    chosen = params(name="official", straddling=straddling)
    if straddling == "fail":
        with refused("(x)", "split.straddling"):
            assign(table, chosen, NOWHERE)
        return
    splits = assign(table, chosen, NOWHERE)
    if straddling == "keep":
        assert list(splits) == ["train", "val", "train", "test", "train"]
        assert straddling_groups(splits, table["group"]) == ["x"]
    else:
        assert list(splits) == ["dropped", "val", "train", "test", "dropped"]
        assert straddling_groups(splits, table["group"]) == []


def test_of_many_groups_on_both_sides_five_are_named() -> None:
    table = table_of("abcdefabcdef", official=["train"] * 6 + ["val"] * 6)
    with pytest.raises(UserError, match=r"^6 groups .* \(a, b, c, d, e\); "):
        assign(table, params(name="official", straddling="fail"), NOWHERE)


def test_dropping_may_not_empty_train() -> None:
    table = table_of("xx", official=["train", "val"])
    with pytest.raises(UserError, match="no image for 'train'"):
        assign(table, params(name="pattern", val="01*", test=None, straddling="drop_from_train"), NOWHERE)


def from_lists(table: pd.DataFrame, folder: Path, straddling: str = "keep") -> pd.Series:
    return assign(table, params(name="lists", folder=folder.name, straddling=straddling), folder.parent)


def write(folder: Path, **lists: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in lists.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


@given(table=grouped_tables(), test=st.sampled_from([0.0, 0.2]))
@settings(max_examples=8)
def test_written_lists_read_back_as_the_same_split(
    tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame, test: float
) -> None:
    folder = tmp_path_factory.mktemp("lists") / "mine"
    splits = assign(table, fraction(test=test), NOWHERE)
    write_lists(table.assign(split=splits), folder)
    assert (folder / "test.txt").exists() == (test > 0)
    pd.testing.assert_series_equal(from_lists(table, folder), splits, check_names=False)


def test_lists_may_come_from_windows_and_leave_images_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", train="\ufeffa/00.png\r\na/02.png\r\n\r\n", val=" a/01.png ", test="")
    assert list(from_lists(table_of(range(4)), folder)) == ["train", "val", "train", "dropped"]


def test_a_group_that_two_lists_name_is_treated_as_is_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", train="a/00.png\na/01.png\n", val="a/02.png\n")
    assert list(from_lists(table_of("xyx"), folder, "drop_from_train")) == ["dropped", "train", "val"]
    with pytest.raises(UserError, match="lie in more than one split"):
        from_lists(table_of("xyx"), folder, "fail")


def test_names_in_lists_may_hold_spaces(tmp_path: Path) -> None:
    table = table_of(range(2)).assign(file=["b (1).png", "b (2).png"])
    folder = write(tmp_path / "mine", train="b (1).png\n", val="b (2).png\n")
    assert list(from_lists(table, folder)) == ["train", "val"]


def test_mistakes_in_lists_are_named(tmp_path: Path) -> None:
    table = table_of(range(3))
    with refused(f"{tmp_path}/missing/train.txt: ", "split.folder"):
        from_lists(table, tmp_path / "missing")
    folder = write(tmp_path / "mine", train="a/00.png\na/00.png\n", val="a/01.png\n")
    with refused(f"{folder}/train.txt: 'a/00.png'", "train.txt"):
        from_lists(table, folder)
    write(folder, train="a/00.png\na/01.png\n")
    with refused(f"{folder}/val.txt: 'a/01.png'", "train.txt"):
        from_lists(table, folder)
    write(folder, train="a/00.png\n00.png\n")
    with refused(f"{folder}/train.txt: '00.png'"):
        from_lists(table, folder)
    write(folder, train="a/00.png\n", val="")
    with pytest.raises(UserError, match="no image for 'val'"):
        from_lists(table, folder)
    (folder / "val.txt").write_bytes("a/01.png ä".encode("latin-1"))
    with pytest.raises(UserError, match=r"val\.txt: not UTF-8 text"):
        from_lists(table, folder)


def test_a_folder_of_lists_is_a_plain_name() -> None:
    for name in ("../up", "", "/etc", "a/b"):
        with pytest.raises(UserError, match=r"split\.folder"):
            params(name="lists", folder=name, straddling="keep")


def test_groups_straddle_where_they_meet_two_parts_that_count() -> None:
    splits = pd.Series(["train", "dropped", "train", "val", "test", "val"])
    groups = pd.Series(["a", "a", "b", "b", "c", "c"])
    assert straddling_groups(splits, groups) == ["b", "c"]
