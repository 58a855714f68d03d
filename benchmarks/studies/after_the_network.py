"""What comes after the network, and what each step of it brings on the test images: averaging, CRF, counting.

Reads the finished run in the project's folder and writes nothing there. Nothing is chosen by what this shows: the
choices were made on val. Every row is the plain prediction (threshold 0.5, nothing after it) with one thing done, and
its difference to the plain one on the same images, with a 95 % interval over groups, or their range.

Run in the project's root after a run: `python -m benchmarks.studies.after_the_network`.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.core.markdown import table as table_text
from medseg.core.params import read_record, read_section
from medseg.data.image import Image, images_of
from medseg.data.manifest import read_manifest
from medseg.evaluation.describe import ENDS_BRIEFLY
from medseg.evaluation.evaluate import evaluate
from medseg.evaluation.formatting import ABSENT, ends, score
from medseg.evaluation.tuning import EvaluateParams
from medseg.inference.crf import CrfParams
from medseg.inference.postprocess import Postprocess
from medseg.inference.predictor import Predictor
from medseg.inference.settings import Choices, Counting, SegmenterDescription
from medseg.inference.sliding_window import Forward
from medseg.inference.torch_backend import choose_device, network_forward
from medseg.metrics.counting import CountingParams
from medseg.metrics.intervals import estimate
from medseg.models.checkpoint import load_bundle

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
BARE = Postprocess(threshold=0.5, fill_holes=False, smallest_object=0, largest_component=False)
PLAIN = Choices(test_time_augmentation="none", crf=None, postprocess=BARE)


def main() -> None:
    """Score all variants, print their table, and write it as JSON to benchmarks/studies/results/."""
    params = ROOT / "params.yaml"
    images = images_of(read_manifest(ROOT / "data" / "manifest.csv"), ROOT / "data" / "raw")
    settings = read_section(params, "evaluate", EvaluateParams)
    network, description = load_bundle(ROOT / "models" / "segmenter", SegmenterDescription)
    forward = network_forward(network, description.task, choose_device("auto"))
    ways = variants(CrfParams.model_validate(settings.crf.model_dump(exclude={"use"})), description)
    scores = {name: table(forward, way, images, settings.batch_size) for name, way in ways.items()}
    found = {
        "dice": [dice_row(name, scores) for name in scores],
        "counts": counting_rows(forward, description, images, settings),
    }
    result = RESULTS / f"after_the_network_{read_record(params)['name']}.json"
    result.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    for rows in found.values():
        print(table_text(list(rows[0]), [list(map(str, row.values())) for row in rows]), end="\n\n")


def variants(crf: CrfParams, chosen: SegmenterDescription) -> dict[str, SegmenterDescription]:
    """The same network with other choices after it."""
    choices = {
        "plain": PLAIN,
        "averaged with its mirror image": PLAIN.model_copy(update={"test_time_augmentation": "mirror"}),
        "averaged over flips": PLAIN.model_copy(update={"test_time_augmentation": "flips"}),
        "averaged over flips and turns": PLAIN.model_copy(update={"test_time_augmentation": "flips_and_turns"}),
        "dense CRF": PLAIN.model_copy(update={"crf": crf}),
        "all as val chose": chosen.chosen.choices,
    }
    return {name: with_choices(chosen, way) for name, way in choices.items()}


def with_choices(description: SegmenterDescription, choices: Choices) -> SegmenterDescription:
    """The description with other choices."""
    return description.model_copy(update={"chosen": description.chosen.model_copy(update={"choices": choices})})


def table(
    forward: Forward, description: SegmenterDescription, images: Sequence[Image], batch_size: int
) -> pd.DataFrame:
    """The table per image."""
    with tempfile.TemporaryDirectory() as folder:
        predictor = Predictor(description, forward)
        return evaluate(predictor, images, batch_size, Path(folder)).table


def dice_row(name: str, scores: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Mean Dice of a variant, and its difference to the plain one."""
    full = scores["plain"]["truth_pixels"] > 0
    dice, plain = (scores[variant]["dice"][full] for variant in (name, "plain"))
    found = estimate(dice - plain, scores["plain"]["group"][full].tolist(), "-1 to 1")
    return {
        "after the network": name,
        "images": len(dice),
        "Dice": f"{dice.mean():.3f}",
        "difference": ABSENT if name == "plain" else score(found.mean, "+.3f"),
        ENDS_BRIEFLY: ABSENT if name == "plain" else ends(found, form="+.3f"),
    }


def counting_rows(
    forward: Forward, description: SegmenterDescription, images: Sequence[Image], settings: EvaluateParams
) -> list[dict[str, Any]]:
    """How far counts are off, with touching objects told apart by watershed and without; the truth by its own rule."""
    truth = settings.counting.of_truth()
    rules = {
        "contours, holes included": None,
        "objects, touching ones together": truth.model_copy(update={"split": False}),
        "objects, touching ones split by watershed": truth.model_copy(update={"split": True}),
    }
    return [counting_row(name, rule, forward, description, images, settings) for name, rule in rules.items()]


def counting_row(
    name: str,
    rule: CountingParams | None,
    forward: Forward,
    description: SegmenterDescription,
    images: Sequence[Image],
    settings: EvaluateParams,
) -> dict[str, Any]:
    """The mean absolute error of one rule of counting."""
    truth = settings.counting.of_truth()
    counting = Counting(truth=truth, prediction=rule or truth)
    scoring = description.scoring.model_copy(update={"counting": counting})
    scores = table(forward, description.model_copy(update={"scoring": scoring}), images, settings.batch_size)
    kind = "counted" if rule else "contours"
    return {
        "what is counted": name,
        "images": len(scores),
        "in the truth": f"{scores[f'{kind}_truth'].mean():.1f}",
        "off by": f"{scores[f'{kind}_absolute_error'].mean():.1f}",
    }


if __name__ == "__main__":
    main()
