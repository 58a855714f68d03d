"""Score a segmenter on an external data set, with the choices that its bundle holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.core.errors import UserError
from medseg.core.files import atomic_folder, check_folder, write_text
from medseg.core.markdown import plain, table
from medseg.core.parallel import MachineParams
from medseg.core.params import validate
from medseg.data.image import images_of
from medseg.data.manifest import Fault, ManifestParams, measure, write_manifest
from medseg.data.training_images import find_overlap, parse_training_images, read_training_images
from medseg.datasets.folder import FolderParams
from medseg.datasets.layout import shortened
from medseg.datasets.source import SourceParams
from medseg.evaluation import describe
from medseg.evaluation.evaluate import evaluate
from medseg.evaluation.model_card import false_positives, stratum_cells
from medseg.evaluation.plots import write_plots
from medseg.evaluation.summary import write_tables
from medseg.inference.backends import IMAGES_KEY, Accelerator, onnx_entry, open_model
from medseg.metrics import registry
from medseg.metrics.surface import Tolerance
from medseg.previews.audit import audit, inverted_masks, turned_images

# What the pipeline does by default, in conf/manifest and conf/evaluate.
DUPLICATE_DISTANCE = 14  # bits of 63
BATCH_SIZE = 16  # tiles at a time

LABEL = "image"  # of images in a folder of one's own, where none is given
METRICS = "metrics.json"
SUMMARY = "summary.md"
WRITTEN = {
    *("per_image.csv", "summary.csv", "columns.md", METRICS, SUMMARY, "manifest.csv", "audit.json", "masks", "plots"),
}
MAPS = {"uncertainty"}  # written beside them where uncertainty is computed
THRESHOLDS = pd.DataFrame({"threshold": [], "dice": []})  # an external data set has no val


def folder_data(images: str, masks: str, label: str | None, patient: str | None) -> FolderParams:
    """Images and masks paired by patterns, as `datasets.folder` has them; the others may name fields of `images`.

    Raises `UserError` where the patterns do not fit each other.
    """
    named = {"name": "text", "text": LABEL if label is None else label}
    section = {
        "name": "folder",
        "path": None,
        "archives": (),
        "images": images,
        "masks": masks,
        "label": named,
        "official": None,
    }
    of_patient = None if patient is None else {"name": "text", "text": patient}
    data: FolderParams = validate(
        section | {"patient": of_patient}, FolderParams, "--images, --masks, --label, --patient"
    )
    return data


def evaluate_external(
    model: Path, data: SourceParams, root: Path, out: Path, skip_bad: bool, accelerator: Accelerator
) -> str:
    """Score a model folder, or an ONNX file of `medseg export`, on all images of `data` below `root`.

    Threshold and all other choices are the model's. `out` gets the tables of `summary.write_tables` (metrics.json is
    their summary), the masks and maps of `evaluate.evaluate`, plots/ of `plots.write_plots`, manifest.csv with the
    hashes of the scored files, its audit.json, and summary.md, the text that it gives (`summary_text`); it is atomic.
    A previous evaluation in `out` is replaced.

    Groups are near-duplicates among these images and known patients. Images that trained or tuned the model, are
    near-duplicates of such, or of patients of such, stand in the audit's `seen_in_training`. Raises `UserError` where
    the model is incomplete or no segmenter, images can't be used (with `skip_bad` where none can), their labels are no
    classes of the network, `out` holds anything else, or there is no GPU.
    """
    _check_out(out, root)
    predictor = open_model(model, None, accelerator)
    images, faults = _measured(data, root, skip_bad, accelerator)
    predictor.description.task.check_external(images["label"])
    scored = images_of(images, root, predictor.description.intensity)
    seen = find_overlap(images, _training_images(model))
    with atomic_folder(out) as partial:
        found = evaluate(predictor, scored, BATCH_SIZE, partial)
        means, _ = write_tables(found, partial, partial / METRICS)
        (partial / "plots").mkdir()
        write_plots(found, THRESHOLDS, means, scored, partial, partial / "plots")
        write_manifest(images, partial / "manifest.csv")
        audited = audit(data.name, images, faults, inverted_masks(scored), turned_images(scored), uneven=[])
        audited["seen_in_training"] = dict(zip(seen["file"], seen["reason"], strict=True))
        text = summary_text(means, audited, predictor.description.scoring.tolerance)
        write_text(partial / SUMMARY, text + "\n")
        write_text(partial / "audit.json", json.dumps(audited, indent=2) + "\n")
    return text


def summary_text(means: pd.DataFrame, audited: dict[str, Any], tolerance: Tolerance) -> str:
    """The scores in short, as Markdown: means and how sure they are over all images and by label, and false positives.

    `means` is what `summary.write_tables` writes as summary.csv, `audited` what `evaluate_external` writes as
    audit.json.
    """
    rows = [
        [plain(stratum), *stratum_cells(part.set_index("metric"))]
        for (kind, stratum), part in means.groupby(["by", "stratum"], sort=False)
        if kind in ("all", "label")
    ]
    titles = [metric.title(tolerance) for metric in registry.METRICS if metric.brief]
    parts = [
        f"{plain(audited['data'])}: {audited['images']} images. Means over those in which something is annotated. "
        f"{describe.ENDS}",
        table(["images", "number", "groups", "missed", *titles], rows),
        false_positives(means),
        "Nothing was chosen on these images.",
        _seen(audited["seen_in_training"], audited["images"]),
    ]
    parts += [f"Warning: {plain(warning)}." for warning in audited["warnings"]]
    if files := audited["inverted_mask_files"]:
        parts.append(f"{describe.inverted(files)} ({shortened(plain(name) for name in files)})")
    if faults := audited["skipped_files"]:
        lines = [f"- {plain(fault['file'])}: {plain(fault['reason'])}" for fault in faults]
        parts.append("\n".join([f"Left out as unusable: {len(faults)}", "", *lines]))
    return "\n\n".join(parts)


def _training_images(model: Path) -> pd.DataFrame:
    """The images that trained or tuned a model folder or an ONNX file."""
    if model.is_file():
        return parse_training_images(onnx_entry(model, IMAGES_KEY), f"{model}: {IMAGES_KEY}")
    return read_training_images(model)


def _seen(seen: Mapping[str, str], images: int) -> str:
    known = "by its file's bytes, its patient, or as a near-duplicate"
    if not seen:
        return f"None of them was recognised, {known}, as one that trained or tuned the model."
    shown = shortened(f"{plain(file)}: {reason}" for file, reason in seen.items())
    return (
        f"**Warning.** {len(seen)} of the {images} images were recognised, {known}, as having trained or tuned the "
        f"model ({shown}): the scores are optimistically biased. Leave them out."
    )


def _check_out(out: Path, root: Path) -> None:
    """Raise `UserError` where `out` holds anything but a whole evaluation, or the data."""
    check_folder(out, "--out")
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()}
    if names and names - MAPS != WRITTEN:
        raise UserError(
            f"--out {out}: holds something else than an evaluation ({shortened(sorted(names))}); name a new folder"
        )
    if root.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--out {out}: the data lie in it; name another folder")


def _measured(
    data: SourceParams, root: Path, skip_bad: bool, accelerator: Accelerator
) -> tuple[pd.DataFrame, list[Fault]]:
    """The manifest of all usable images, as split test, and the faults of the others."""
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder")
    settings = ManifestParams(bad_files="skip", duplicate_distance=DUPLICATE_DISTANCE)
    machine = MachineParams(workers=0, backend="threading", accelerator=accelerator)
    images, faults = measure(data.scan(root), root, settings, machine)
    if faults and not skip_bad:
        lines = [f"{fault.file}: {fault.reason}" for fault in faults]
        head = f"{root}: {len(faults)} images can't be used (mend them, or say --skip-bad to go on without them):"
        raise UserError("\n       ".join([head, *lines]))
    images.insert(4, "split", "test")
    return images, faults
