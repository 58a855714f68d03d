"""Reading sections of `params.yaml` into typed classes, which stand in the modules that use them."""

import copy
import json
import re
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar, overload

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medseg.core.credentials import ADVICE, has_credentials, without_credentials
from medseg.core.errors import UserError

T = TypeVar("T")

Seed = Annotated[int, Field(ge=0, lt=2**32)]

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def _as_word(value: Any) -> Any:
    if isinstance(value, int | float | date):
        raise ValueError("YAML takes this for a number or a date; put it in quotes: '\"2024\"'")
    if isinstance(value, str) and not _WORD.fullmatch(value):
        raise ValueError("must be one word of at most 100 of A-Z a-z 0-9 _ - . that begins with none of - and .")
    return value


# What becomes the name of a file or a part of a command: it leads nowhere else, and means nothing to a shell.
Word = Annotated[str, BeforeValidator(_as_word)]


def _stays_below(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or not {"..", "~"}.isdisjoint(path.parts) or path == PurePosixPath():
        raise ValueError(
            "must be a path inside the data folder, without / at its start and without ..: files elsewhere are unknown "
            "to DVC, which would not notice that they change. Put the file into the data folder"
        )
    return value


# A file or folder of the data set, relative to its folder.
PathInside = Annotated[str, AfterValidator(_stays_below)]

MAX_VALUES = 100_000  # in a file; the longest that the project writes has some hundreds

FREE_SECTIONS = frozenset({"machine", "logger"})  # change no result, so no stage lists them under `params:`


class Section(BaseModel):
    """Base of every parameter class: strict types, no unknown keys, no NaN or infinity, immutable, no defaults."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@overload
def read_section(path: Path, name: str, kind: type[T]) -> T: ...


@overload
def read_section(path: Path, name: str, kind: Any) -> Any: ...


def read_section(path: Path, name: str, kind: Any) -> Any:
    """Read the section `name` of the parameter file `path` as `kind`, a class or a union of classes.

    Raises `UserError` with every wrong key, its value and what is allowed.
    """
    sections = read_yaml(path)
    if name not in sections:
        raise UserError(f"{path}: the section '{name}' is missing; it has {', '.join(sections) or 'no section'}")
    return validate(sections[name], kind, f"{path}: {name}")


def read_record(path: Path) -> dict[str, Any]:
    """Read all sections that can change a result, as plain values for the record: all but `FREE_SECTIONS`."""
    return {name: section for name, section in read_yaml(path).items() if name not in FREE_SECTIONS}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping, as DVC reads it (so `1e-3` is a number).

    Raises `UserError`, for an address with credentials too.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        _check_tree(content, path)
    # ValueError: an impossible number or date; RecursionError: deep nesting.
    except (YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a mapping of names to values")
    return content


def _check_tree(content: Any, path: Path) -> None:
    """Raise `ValueError` for what no section can hold, and for more than `MAX_VALUES` values, aliases followed.

    Aliases of aliases could fill the memory, and a value can contain itself.
    """
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values, or one that holds itself")
        if isinstance(value, dict):
            if others := [key for key in value if not isinstance(key, str)]:
                raise ValueError(f"the key {others[0]!r} is no text; put it in quotes")
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        else:
            _check_value(value, path)


def _check_value(value: Any, path: Path) -> None:
    if isinstance(value, str):
        value.encode()  # a lone surrogate, such as "\ud800", is a `ValueError`
        if has_credentials(value):
            raise UserError(f"{path}: {without_credentials(value)} {ADVICE}")
    elif isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"a number of {value.bit_length()} bits")
    elif not isinstance(value, int | float | date | None):
        raise ValueError(f"a value of the type {type(value).__name__}, which no section takes")


def validate(value: Any, kind: Any, where: str) -> Any:
    """Check `value` against `kind`, a class or a union. Raises `UserError` with every fault, each after `where`."""
    try:
        return _parse(value, kind)
    except ValidationError as error:
        faults = [_describe(fault, value, kind, where) for fault in error.errors(include_url=False)]
        raise UserError("\n       ".join(faults)) from None


def _parse(value: Any, kind: Any) -> Any:
    # Through JSON, so that strict mode still takes a YAML list for a tuple.
    return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)


def _describe(fault: Any, value: Any, kind: Any, where: str) -> str:
    keys = _existing_keys(fault["loc"], value)
    key = ".".join([where, *map(str, keys)])
    match fault["type"]:
        case "missing":
            return f"{key}.{fault['loc'][-1]} is missing"
        case "union_tag_not_found":
            return f"{key}.name is missing"
        case "union_tag_invalid":
            return f"{key}.name = {fault['ctx']['tag']!r}: must be one of {fault['ctx']['expected_tags']}"
        case "extra_forbidden":
            return f"{key} is no known key; known are {', '.join(_known_keys(fault['loc'], keys[:-1], value, kind))}"
    given = fault["input"]
    shown = given["name"] if isinstance(given, dict) and "name" in given else given
    return without_credentials(f"{key} = {shown!r}: {fault['msg'].removeprefix('Value error, ')}")


def _existing_keys(location: tuple[int | str, ...], value: Any) -> list[int | str]:
    """The parts of pydantic's location that are keys of the YAML; other parts are tags of a union, or missing keys."""
    keys: list[int | str] = []
    inside_union = False
    for part in location:
        if isinstance(value, dict) and value.get("name") == part and not inside_union:
            inside_union = True  # a tag, even where a key has the same name
        elif _holds(value, part):
            value = value[part]
            keys.append(part)
            inside_union = False
    return keys


def _holds(value: Any, part: int | str) -> bool:
    return part in value if isinstance(value, dict) else isinstance(value, list) and part in range(len(value))


def _known_keys(location: tuple[int | str, ...], parents: list[int | str], value: Any, kind: Any) -> list[str]:
    """The keys that the mapping at `parents` may have; `location` is pydantic's of an unknown key in it.

    No section has defaults, so they are the keys that pydantic misses in a mapping that holds the union's tag alone.
    """
    bare = copy.deepcopy(value)
    mapping = bare
    for part in parents:
        mapping = mapping[part]
    tag = {"name": mapping["name"]} if "name" in mapping else {}
    mapping.clear()
    mapping.update(tag)
    try:
        _parse(bare, kind)
    except ValidationError as error:
        missed = [fault["loc"] for fault in error.errors() if fault["type"] == "missing"]
        return [*tag, *(str(missing[-1]) for missing in missed if missing[:-1] == location[:-1])]
    return [*tag]
