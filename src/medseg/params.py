"""Reading one section of `params.yaml` into its class.

The classes stand in the modules that use them; this module knows none of them.
"""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medseg.errors import UserError

T = TypeVar("T")

Seed = Annotated[int, Field(ge=0, lt=2**32)]

MACHINE_SECTION = "machine"  # changes speed but no bytes, so no stage lists it under `params:`


class Section(BaseModel):
    """Base of every parameter class: strict types, no unknown keys, no NaN or infinity, immutable."""

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
    """Read all sections that can change a result, as plain values for the record: all but `machine`."""
    return {name: section for name, section in read_yaml(path).items() if name != MACHINE_SECTION}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping, as DVC reads it (so `1e-3` is a number). Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a mapping of names to values")
    return content


def validate(value: Any, kind: Any, where: str) -> Any:
    """Check `value` against `kind`; `where` leads each message. Raises `UserError` that lists every fault."""
    try:
        # Through JSON, so that strict mode still takes a YAML list for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        faults = [_describe(fault, value, where) for fault in error.errors(include_url=False)]
        raise UserError("\n       ".join(faults)) from None


def _describe(fault: Any, value: Any, where: str) -> str:
    key = ".".join([where, *_existing_keys(fault["loc"], value)])
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{key} is no known key"
    if fault["type"].startswith("union_tag"):
        return f"{key}.name = {_shown(value)}: {_allowed_names(fault)}"
    return f"{key} = {_shown(fault['input'])}: {fault['msg']}"


def _allowed_names(fault: Any) -> str:
    expected = fault.get("ctx", {}).get("expected_tags")
    return f"must be one of {expected}" if expected else "the section needs the key 'name'"


def _shown(value: Any) -> str:
    return repr(value.get("name")) if isinstance(value, dict) and "name" in value else repr(value)


def _existing_keys(location: tuple[int | str, ...], value: Any) -> list[str]:
    """The parts of pydantic's location that are keys of the YAML; the others are tags of a union."""
    keys = []
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(value, dict) and (part in value or is_last):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        keys.append(str(part))
    return keys
