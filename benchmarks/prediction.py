"""Prediction tile by tile, without overlap, against one call of the network on all pixels of the image.

The network is that of params.yaml with random weights, for grey images. Ours is the public path up to the
probabilities, `Predictor.predict_probabilities`: cutting, batches, the network, stitching the tiles. The baseline is
`network(x)` of the whole image by PyTorch, x ready on the device, and `session.run` of it by ONNX Runtime, whose
exported network takes any size. Both sides run in turn; small images once before the clock starts. Where there is a
GPU, PyTorch's calls are waited for; ONNX Runtime needs its GPU package to use one.

Run in the project's root: `python -m benchmarks.prediction`. It takes about 10 GB of memory, for the whole images.
"""

import argparse
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import Row, report, row, seconds
from benchmarks.predict_memory import GEOMETRIES, description
from medseg.core.params import read_yaml, validate
from medseg.data.image_io import Pixels
from medseg.data.training_images import no_images, write_training_images
from medseg.inference.backends import INPUT, OUTPUT, Accelerator, Runtime, open_model
from medseg.inference.onnx_export import export
from medseg.inference.predict import BATCH_SIZE
from medseg.inference.predictor import Predictor
from medseg.inference.torch_backend import load_segmenter
from medseg.models.checkpoint import save_bundle
from medseg.models.network import build_model
from medseg.models.params import ModelParams

ROOT = Path(__file__).parents[1]
SIZES = ((512, 512), (4000, 3000))  # width, height; pixels
TILE = 128  # pixels, the patch size of the older projects
LARGE_ROUNDS = 3  # of images that take long, the first of which warms up
LIMIT = 0.8
Work = Callable[[], object]


def main() -> None:
    """Measure both runtimes on every device at hand, print and write benchmarks/results/prediction.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7, help=f"of small images; large ones take {LARGE_ROUNDS}")
    rounds = parser.parse_args().rounds
    has_gpu = torch.cuda.is_available()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_model(Path(scratch))
        for size in SIZES:
            compare = partial(compared, folder=folder, size=size, rounds=rounds)
            rows += [compare("onnx", "cpu"), compare("torch", "cpu")]
            rows += [compare("torch", "gpu")] if has_gpu else []
    facts: dict[str, object] = {f"{found.what}: images per second": round(1 / found.ours, 3) for found in rows}
    facts |= {
        "torch gpu": torch.cuda.get_device_name() if has_gpu else "no GPU here",
        "onnx gpu": "not measured",
        "threads": torch.get_num_threads(),
        "batch_size": BATCH_SIZE,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 1),
    }
    report("prediction", rows, facts)


def write_model(folder: Path) -> Path:
    """A model folder with tiles that do not overlap, with the network as ONNX in it."""
    params = read_yaml(ROOT / "params.yaml")["model"] | {"encoder_weights": "none"}
    described = description(GEOMETRIES["patches of 128"] | {"patch": TILE, "stride": TILE}).model_copy(
        update={"model": validate(params, ModelParams, "params.yaml: model"), "overlap": 0.0}
    )
    torch.manual_seed(0)
    save_bundle(folder, build_model(described.model, channels=1, classes=1), described)
    write_training_images(no_images(), folder)
    export(folder, folder / "segmenter.onnx")
    return folder


def compared(runtime: Runtime, accelerator: Accelerator, folder: Path, size: tuple[int, int], rounds: int) -> Row:
    """The row of one runtime on one device and images of one size (width, height)."""
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 1), np.uint8)
    ours = partial(predict_ours, open_model(folder, runtime, accelerator), image)
    whole = whole_by_torch(folder, accelerator, image) if runtime == "torch" else whole_by_onnx(folder, image)
    if size == SIZES[0]:
        ours(), whole()
    times = alternated(ours, whole, rounds if size == SIZES[0] else LARGE_ROUNDS)
    found = row(f"{runtime} {accelerator} {size[0]}x{size[1]} in tiles of {TILE}", times, LIMIT)
    print(found, flush=True)
    return found


def predict_ours(predictor: Predictor, image: Pixels) -> object:
    """Probabilities of the image by the public path."""
    return predictor.predict_probabilities(image, BATCH_SIZE, "none").probabilities


def whole_by_torch(folder: Path, accelerator: Accelerator, image: Pixels) -> Work:
    """One call of the network on pixels that are on the device."""
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    network = load_segmenter(folder)[0].to(device)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)

    def whole() -> None:
        with torch.inference_mode():
            network(pixels)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return whole


def whole_by_onnx(folder: Path, image: Pixels) -> Work:
    """One run of a session of its own, on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "segmenter.onnx", providers=["CPUExecutionProvider"])
    return partial(session.run, [OUTPUT], {INPUT: np.ascontiguousarray(image.transpose(2, 0, 1)[None])})


def alternated(ours: Work, whole: Work, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both sides in every round; who begins changes."""
    found = []
    for number in range(rounds):
        if number % 2:
            theirs, mine = seconds(whole), seconds(ours)
        else:
            mine, theirs = seconds(ours), seconds(whole)
        found.append((mine, theirs))
    return found


if __name__ == "__main__":
    main()
