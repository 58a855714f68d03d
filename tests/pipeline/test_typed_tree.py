"""Any value at any key of any section: refused with its key and in words, or accepted, and then it works.

Every file of `conf/` is a section as it should be. One of its values is replaced by anything that YAML can hold. What
the section's class accepts goes to the function that the section is for, on the smallest data, so that bounds that
are too wide show.
"""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from extras import HAS_CRF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sections import CONF, SECTIONS

from medseg.core.errors import UserError
from medseg.core.params import Seed, read_yaml, validate
from medseg.data.augment import build_transform, vary
from medseg.data.duplicates import find_groups
from medseg.data.geometry import Patchify, Resize, Scale, fitted_size, sample_count
from medseg.data.intensity import Percentiles, to_8_bits
from medseg.data.percentiles import window_between
from medseg.data.prepare import samples_of
from medseg.data.splits import assign
from medseg.data.task import UNANNOTATED
from medseg.data.thumbnails import thumbnail
from medseg.datasets.folder import FolderParams
from medseg.datasets.record import Region
from medseg.evaluation.tuning import select
from medseg.models.network import build_model
from medseg.models.params import ModelParams
from medseg.training.batch_augment import augment_batch, random_numbers
from medseg.training.losses import build_loss
from medseg.training.optim import build_optimizer, build_schedule
from medseg.training.params import OptimizerParams
from medseg.training.sampler import Sampling

WIDEST = 16  # feature maps, of networks that are built here: more takes long, and no other way through the code
MOST_MEMORY = 2 * 2**30  # bytes
LARGEST = 64  # pixels, of samples that are made here, for the same reason

FILES = sorted(path for group in SECTIONS for path in (CONF / group).glob("*.yaml"))
ONE_PER_GROUP = list({path.parent: path for path in reversed(FILES)}.values())

Keys = tuple[str | int, ...]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 2, 3, 7, 8, 255, 256, 2**31, 2**32, 2**63, -1]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e-300, 5e-324, 1e300, 0.999999999999]),
    st.text(max_size=8),
    st.sampled_from(["val", "auto", "none", "never", "", "a\0b", "../x", "{a}", "{a}{a}", "*", "**/", "[", "\\", "\n"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=6), st.dictionaries(st.text(max_size=4), SCALARS, max_size=3))


def leaves(section: Any, above: Keys = ()) -> Iterator[Keys]:
    """The keys of every value of a section, mappings and lists among them."""
    if above:
        yield above
    items = section.items() if isinstance(section, dict) else enumerate(section) if isinstance(section, list) else ()
    for key, value in items:
        yield from leaves(value, (*above, key))


def replaced(section: Any, keys: Keys, value: Any) -> Any:
    """A copy of a section in which one value is another."""
    if not keys:
        return value
    changed: Any = dict(section) if isinstance(section, dict) else list(section)
    changed[keys[0]] = replaced(section[keys[0]], keys[1:], value)
    return changed


def attempts(count: int) -> settings:
    return settings(max_examples=count, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.slow
@attempts(25)
@given(data=st.data())
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_value_is_accepted_and_works_or_refused_with_its_key(
    path: Path, data: st.DataObject, record_property: Callable[[str, object], None], tmp_path_factory: Any
) -> None:
    try_a_value(path, data, record_property, tmp_path_factory)


@attempts(4)
@given(data=st.data())
@pytest.mark.parametrize("path", ONE_PER_GROUP, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_few_values_are_accepted_and_work_or_refused_with_their_key(
    path: Path, data: st.DataObject, record_property: Callable[[str, object], None], tmp_path_factory: Any
) -> None:
    try_a_value(path, data, record_property, tmp_path_factory)


def try_a_value(
    path: Path, data: st.DataObject, record_property: Callable[[str, object], None], tmp_path_factory: Any
) -> None:
    """Replace one of the values of a file by one that is drawn."""
    group = path.parent.name
    section = read_yaml(path)
    keys = data.draw(st.sampled_from(sorted(leaves(section), key=str)), label="key")
    changed = replaced(section, keys, data.draw(VALUES, label="value"))
    message = refusal(lambda: validate(changed, SECTIONS[group], f"params.yaml: {group}"))
    if message is None:
        section = validate(changed, SECTIONS[group], f"params.yaml: {group}")
        folder = tmp_path_factory.mktemp("used")
        assert refusal(lambda: use(group, section, folder)) != ""  # what does not fit the data is told in words
        return
    record_property("door", (f"{path.stem}: {'.'.join(map(str, keys))}", f"params.yaml: {group}", message, 1))
    # A wrong name of a section tells its name; what a validator compares with another key, both.
    assert message.startswith((f"params.yaml: {group}.", f"params.yaml: {group} = "))
    assert any(isinstance(key, str) and key in message for key in keys)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """No value may take more than 2 GB: more is refused to this process, instead of taking the whole machine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MOST_MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def refusal(function: Callable[[], object]) -> str | None:
    """The message with which a function refuses; None where it does not."""
    try:
        function()
    except UserError as error:
        return str(error)
    return None


def use(group: str, section: Any, folder: Path) -> None:
    """Do with a section what it is for, on the smallest data."""
    torch.manual_seed(0)
    match group:
        case "data":
            use_data(section, folder)
        case "manifest":
            pixels = np.stack([thumbnail(tiny.noise(40, width)) for width in (40, 50)])
            assert len(set(find_groups(pixels, ["", ""], section.duplicate_distance, tiny.CPU).names)) == 2
        case "split":
            assert assign(manifest(), section, folder).isin(["train", "val", "test", "dropped"]).all()
        case "prepare":
            use_geometry(section)
        case "intensity":
            found = window_between(np.ones(256, np.int64), section) if isinstance(section, Percentiles) else section
            mapped = to_8_bits(np.arange(65536, dtype=np.uint16), found)
            assert (np.diff(mapped.astype(int)) >= 0).all()
            assert (mapped[0], mapped[-1]) == (0, 255)
        case "augment" | "online":
            use_transforms(section)
        case "task":
            section.codes(["a", "normal", "benign"])
        case "model":
            use_model(section)
        case "loss":
            use_loss(section)
        case "optimizer" | "scheduler":
            use_optimisation(group, section)
        case "sampling":
            store = tiny.write_packed(folder / "store", 3, labels=["a", "b"], side=8)
            assert len(Sampling(section, store, 0).order(0)) == 3
        case "evaluate":
            use_evaluation(section, folder)


def use_data(section: Any, folder: Path) -> None:
    if not isinstance(section, FolderParams):
        return
    root = folder / "study"
    for name in ("images/a.png", "masks/a.png", "images/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for record in section.scan(root):
        assert (root / record.file).is_file()


def manifest() -> pd.DataFrame:
    """Twelve images in six groups."""
    rows = [{"file": f"{n}.png", "label": "ab"[n % 2], "group": f"g{n // 2}", "official": "train"} for n in range(12)]
    return pd.DataFrame(rows)


def use_geometry(section: Any) -> None:
    sides = (section.height, section.width) if isinstance(section, Resize) else ()
    if max(sides, default=0) > LARGEST or (isinstance(section, Patchify) and section.patch > LARGEST):
        return
    image, mask = tiny.square(0, 20, 30, section.channels)
    size = (20, 30) if not isinstance(section, Scale) else fitted_size(20, 30, section)
    parts = list(samples_of(image, mask, Region(0, 0, 20, 30), section, size))
    assert sum(len(images) for images, _ in parts) == sample_count(20, 30, section)
    for images, masks in parts:
        assert len(images) == len(masks)
        assert images.shape[-1] == section.channels
        assert set(np.unique(masks)) <= {0, 1, UNANNOTATED}


def use_transforms(section: Any) -> None:
    image, mask = tiny.square(0, 16, 16)
    varied, moved = vary(build_transform(section), image, mask, (0, 0))
    assert varied.shape == image.shape
    assert varied.dtype == np.uint8
    assert set(np.unique(moved)) <= {0, 1}
    pixels, truth = torch.from_numpy(image).permute(2, 0, 1)[None].float(), torch.from_numpy(mask)[None, None]
    online, _ = augment_batch(pixels, truth, section, random_numbers(0, 0, 0, 1))
    assert online.isfinite().all()


def use_model(section: Any) -> None:
    values = section.model_dump()
    widths = [*values.get("decoder_channels", []), *values.get("widths", []), values.get("init_features", 1)]
    if max(widths) > WIDEST or "encoder" in values or values.get("psp_channels", 1) > WIDEST:
        return
    network = build_model(section, 1, 1).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 32)).isfinite().all()


def use_loss(section: Any) -> None:
    logits = 3 if section.name in ("cross_entropy", "ce_dice") else 1
    given_logits = torch.randn(2, logits, 8, 8, requires_grad=True)
    truth = torch.randint(0, max(2, logits), (2, 1, 8, 8))
    loss = build_loss(section, logits)(given_logits, truth)
    loss.backward()  # type: ignore[no-untyped-call]
    assert given_logits.grad is not None
    assert given_logits.grad.isfinite().all()


def use_optimisation(group: str, section: Any) -> None:
    network = build_model(
        validate(read_yaml(CONF / "model/unet_plain.yaml") | {"init_features": 1}, ModelParams, ""), 1, 1
    )
    usual = validate(read_yaml(CONF / "optimizer/adam.yaml"), OptimizerParams, "")
    optimizer = build_optimizer(section if group == "optimizer" else usual, network)
    if group == "scheduler":
        build_schedule(section, optimizer, 10, 2)
    optimizer.step()


def use_evaluation(section: Any, folder: Path) -> None:
    use = "always" if HAS_CRF else "never"
    section = section.model_copy(update={"crf": section.crf.model_copy(update={"use": use})})
    images = [tiny.image(folder / "raw", "a.png", *tiny.square(0, 16, 16), split="val")]
    network = tiny.description(tiny.resize(side=16))
    description, _ = select(
        lambda pixels: np.moveaxis(pixels, -1, 1).astype(np.float32) / np.float32(255), network, images, section
    )
    assert 0 < description.chosen.choices.postprocess.threshold < 1


def numbers(schema: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Each number of a JSON schema, with the place where it stands."""
    if isinstance(schema, dict) and schema.get("type") in ("integer", "number"):
        yield from [] if "enum" in schema else [(where, schema)]
    elif isinstance(schema, dict):
        for key, value in schema.items():
            yield from numbers(value, f"{where}.{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from numbers(value, where)


@pytest.mark.parametrize("group", SECTIONS)
def test_every_number_has_both_bounds(group: str) -> None:
    """Without one, some value ends the process, never ends, fills the memory or gives NaN."""
    found = dict(numbers(TypeAdapter(SECTIONS[group]).json_schema(), group))
    lower, upper = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
    assert [where for where, schema in found.items() if not (lower & schema.keys() and upper & schema.keys())] == []


@given(value=VALUES)
@settings(max_examples=30, derandomize=True, database=None)
def test_a_seed_is_accepted_or_refused_by_name(value: Any) -> None:
    message = refusal(lambda: np.random.default_rng(validate(value, Seed, "params.yaml: seed")))
    assert message is None or message.startswith("params.yaml: seed")
