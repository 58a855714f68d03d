from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import Section, Seed, Word, read_record, read_section, read_yaml, validate


class Inner(Section):
    depth: int = Field(ge=1)


class Circle(Section):
    name: Literal["circle"]
    radius: float = Field(gt=0, le=10)


class Text(Section):
    name: Literal["text"]
    text: str
    size: tuple[int, int]


Shape = Annotated[Circle | Text, Field(discriminator="name")]


class Drawing(Section):
    shape: Shape
    other: Shape | None
    inner: Inner
    ratio: float


DRAWING = "{shape: {name: circle, radius: 1}, other: null, inner: {depth: 1}, ratio: 0.5}"


def read(folder: Path, text: str, name: str = "shape", kind: Any = Shape) -> Any:
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return read_section(folder / "params.yaml", name, kind)


def test_a_section_becomes_its_class(tmp_path: Path) -> None:
    assert read(tmp_path, "shape: {name: circle, radius: 2}\nother: 1") == Circle(name="circle", radius=2)
    assert read(tmp_path, "shape: {name: text, text: x, size: [3, 4]}").size == (3, 4)
    assert read(tmp_path, f"drawing: {DRAWING}", "drawing", Drawing).inner.depth == 1
    assert read(tmp_path, "seed: 7", "seed", Seed) == 7


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("1E-2", 0.01), ("2", 2.0), ("0.5", 0.5), ("1.e1", 10.0)]
)
def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path, written: str, value: float) -> None:
    assert read(tmp_path, f"shape: {{name: circle, radius: {written}}}").radius == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{name: circle, radius: 1, radios: 2}", "shape.radios is no known key; known are name, radius"),
        ("{name: circle}", "shape.radius is missing"),
        ("{name: circle, radius: '1'}", "shape.radius = '1'"),
        ("{name: circle, radius: true}", "shape.radius = True"),
        ("{name: circle, radius: 11}", "shape.radius = 11"),
        ("{name: circle, radius: .nan}", "shape.radius = nan"),
        ("{name: circle, radius: .inf}", "shape.radius = inf"),
        ("{name: square}", "shape.name = 'square': must be one of 'circle', 'text'"),
        ("{radius: 1}", "shape.name is missing"),
        ("null", "shape = None"),
        ("{name: text, text: x, size: [1]}", "shape.size.1 is missing"),
        ("{name: text, text: x, size: [1, x]}", "shape.size.1 = 'x'"),
        ("{name: text, text: x, size: [1, 2, 3]}", "shape.size = [1, 2, 3]"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_value(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"shape: {text}")
    assert str(caught.value).startswith(f"{tmp_path}/params.yaml: {told}")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("depth: 1", "depth: 1.0", "inner.depth = 1.0"),
        ("depth: 1", "depth: 1, width: 2", "inner.width is no known key; known are depth"),
        ("ratio: 0.5", "raito: 0.5", "raito is no known key; known are shape, other, inner, ratio"),
        ("other: null", "other: {name: box}", "other.name = 'box'"),
        ("name: circle, radius: 1", "name: circle, radius: -1", "shape.radius = -1"),
    ],
)
def test_nested_keys_are_named_in_full(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"drawing: {DRAWING.replace(old, new)}", "drawing", Drawing)
    assert f"{tmp_path}/params.yaml: drawing.{told}" in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, "shape: {name: text, text: 3, colour: red}")
    assert [line.split("params.yaml: ")[1].split(" ")[0] for line in str(caught.value).splitlines()] == [
        "shape.text",
        "shape.size",
        "shape.colour",
    ]


@pytest.mark.parametrize("value", ["-1", "4294967296", "'3'", "true", "1.5", "null"])
def test_a_seed_is_a_whole_number_of_32_bits(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: seed = "):
        read(tmp_path, f"seed: {value}", "seed", Seed)


@pytest.mark.parametrize("value", ["default", "resnet18-2", "_a.b", "7a", "'2024'", "x" * 100])
def test_a_word_can_be_a_file_s_name_and_a_part_of_a_command(tmp_path: Path, value: str) -> None:
    assert read(tmp_path, f"name: {value}", "name", Word) == value.strip("'")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        *(
            (value, "must be one word of at most 100")
            for value in ("'a;touch x'", "../../x", "my run", "a$(x)", '"a\n"')
        ),
        *((value, "must be one word of at most 100") for value in ("-n", ".x", "..", "a/b", "größe", "''", "x" * 101)),
        *((value, "put it in quotes: '\"2024\"'") for value in ("2024", "1e3", "true")),
        ("null", "should be a valid string"),
    ],
)
def test_what_is_no_word_is_refused_and_a_number_told_to_be_quoted(tmp_path: Path, value: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"name: {value}", "name", Word)
    assert told in str(caught.value)


def test_a_missing_section_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: the section 'shape' is missing; it has model, train$"):
        read(tmp_path, "model: 1\ntrain: 2\n")
    with pytest.raises(UserError, match=r"it has no section$"):
        read(tmp_path, "{}")


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "a: !!python/name:os.system x"])
def test_what_is_no_yaml_is_refused_by_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: not readable as YAML"):
        read(tmp_path, text)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "more than 100000 values, or one that holds itself"),
        ("a: &a [*a]", "more than 100000 values, or one that holds itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "recursion"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 0x" + "f" * 17, "a number of 68 bits"),
        ("a: 2001-99-99", "month"),
        ('a: "\\ud800"', "surrogates not allowed"),
        ("a: !!binary aGk=", "a value of the type bytes"),
        ("a: !!set {b, c}", "a value of the type"),
        ("1: 2", "the key 1 is no text; put it in quotes"),
        ("a: {null: 2}", "the key None is no text"),
        ("? [a, b]\n: 2", "the key"),
    ],
    ids=lambda value: f"{value:.20}",
)
def test_what_no_section_can_hold_is_refused_by_file(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: not readable as YAML: (.|\n)*{reason}"):
        read(tmp_path, text)


def test_an_alias_stands_for_its_value(tmp_path: Path) -> None:
    text = "first: &it {name: circle, radius: 1}\nshape: *it"
    assert read(tmp_path, text) == Circle(name="circle", radius=1)


def test_a_file_name_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not readable as YAML: .*too long"):
        read_yaml(tmp_path / ("x" * 300))


@pytest.mark.parametrize("text", ["", "- a"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: must hold a mapping"):
        read(tmp_path, text)


def test_a_file_that_is_absent_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: no such file"):
        read_yaml(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path)
    (tmp_path / "params.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(UserError, match="not readable as YAML"):
        read_yaml(tmp_path / "params.yaml")


def test_a_section_cannot_be_changed() -> None:
    circle = validate({"name": "circle", "radius": 1}, Circle, "shape")
    with pytest.raises(ValueError, match="frozen"):
        circle.radius = 2


def test_the_record_holds_all_but_the_machine(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\nmachine: {workers: 2}\nlogger: {name: csv}\nloss: {name: dice}\n")
    assert read_record(tmp_path / "params.yaml") == {"seed": 1, "loss": {"name": "dice"}}
