"""What memory and time predicting images of growing size takes, by PyTorch and by ONNX Runtime.

The real command `medseg predict` runs in a process of its own for every image; its peak is the kernel's VmHWM. The
network is a small U-Net that learnt bright discs in a minute's training, once as a model of patches and once as one of
scaled images, which are seen whole while they are small. Prints a Markdown table and writes
`benchmarks/results/predict_memory.json`.

Run in the project's root: `OMP_NUM_THREADS=1 python -m benchmarks.predict_memory`.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medseg.data.image_io import Pixels, write_png

RESULTS = Path(__file__).parent / "results" / "predict_memory.json"
SIZES = ((1000, 750), (2000, 1500), (4000, 3000))  # width, height; pixels
SMALLEST = (128, 128)  # whose peak, that of libraries, model and one tile, is the baseline
GEOMETRIES: dict[str, dict[str, Any]] = {
    "patches of 128": {"name": "patchify", "channels": 1, "patch": 128, "stride": 64, "border": "pad"},
    "scaled by 1": {"name": "scale", "channels": 1, "factor": 1.0, "small_objects": "drop"},
}
MODEL = {"name": "unet_plain", "init_features": 8, "input_mean": [0.5], "input_std": [0.5]}
STEPS = 60  # of training
# The command as installed, which says at its end what memory it took.
COMMAND = (
    "import atexit, pathlib, sys\n"
    "from medseg.cli import main\n"
    "atexit.register(lambda: print(pathlib.Path('/proc/self/status').read_text()))\n"
    "main()\n"
)


def main() -> None:
    """Measure, print and write."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "-m", "benchmarks.predict_memory", "models", str(folder)], check=True)
        for number, geometry in enumerate(GEOMETRIES):
            for runtime in ("torch", "onnx"):
                baseline = measure(folder, number, runtime, SMALLEST)[0]
                rows += [row(folder, number, geometry, runtime, size, baseline) for size in SIZES]
    print(markdown(rows))
    RESULTS.write_text(json.dumps({"machine": machine(), "model": MODEL, "rows": rows}, indent=1) + "\n")


def row(
    folder: Path, number: int, geometry: str, runtime: str, size: tuple[int, int], baseline: float
) -> dict[str, str | float]:
    """One line of the table; MB are 10^6 bytes."""
    peak, seconds = measure(folder, number, runtime, size)
    pixels = size[0] * size[1]
    return {
        "model": geometry,
        "runtime": runtime,
        "size": f"{size[0]}x{size[1]}",
        "arrays_mb": round(pixels * (1 + 4 + 1) / 1e6, 1),  # grey image, probability, code
        "baseline_mb": round(baseline),
        "above_baseline_mb": round(peak - baseline),
        "seconds": round(seconds, 1),
    }


def measure(folder: Path, number: int, runtime: str, size: tuple[int, int]) -> tuple[float, float]:
    """Peak memory in MB and seconds of predicting one image of a size (width, height)."""
    image = folder / f"{size[0]}.png"
    write_png(image, discs(*size))
    model = folder / f"model{number}" if runtime == "torch" else folder / f"model{number}.onnx"
    command = [sys.executable, "-c", COMMAND, "predict", str(image), "--model", str(model), "--accelerator", "cpu"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(folder / "out")], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - started
    [peak] = [line for line in done.stdout.decode().splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1]) * 1024 / 1e6, seconds


def discs(width: int, height: int, seed: int = 0) -> Pixels:
    """A noisy grey image (H, W, 1) with a bright disc in about every 100 x 100 pixels."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.uint8)
    for _ in range(max(1, width * height // 10_000)):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(image, centre, int(rng.integers(5, 25)), (150,), cv2.FILLED)
    noisy: Pixels = (image + rng.integers(0, 60, image.shape, np.uint8))[..., None]
    return noisy


def write_models(folder: Path) -> None:
    """Teach one network and write it as a model folder and as ONNX for each geometry."""
    import torch
    from torch.nn import functional

    from medseg.data.training_images import no_images, write_training_images
    from medseg.inference.onnx_export import export
    from medseg.models.checkpoint import save_bundle
    from medseg.models.network import build_model

    torch.manual_seed(0)
    described = [description(geometry) for geometry in GEOMETRIES.values()]
    network = build_model(described[0].model, channels=1, classes=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for step in range(STEPS):
        images = torch.from_numpy(np.stack([discs(128, 128, 8 * step + number) for number in range(8)]))
        truth = (images.permute(0, 3, 1, 2) >= 150).float()
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(network(images.permute(0, 3, 1, 2)), truth)
        torch.autograd.backward(loss)
        optimizer.step()
    for number, values in enumerate(described):
        save_bundle(folder / f"model{number}", network, values)
        write_training_images(no_images(), folder / f"model{number}")
        export(folder / f"model{number}", folder / f"model{number}.onnx")


def description(geometry: dict[str, Any]) -> Any:
    """`model.yaml` with threshold 0.5 and nothing else chosen."""
    from medseg.core.params import validate
    from medseg.inference.settings import SegmenterDescription

    rule = {"smallest": 10, "split": False, "depth": 1.0}
    last = {"threshold": 0.5, "fill_holes": False, "smallest_object": 0, "largest_component": False}
    training: dict[str, Any] = {
        "initial_weights": "random",
        "initial_network": None,
        "warnings": [],
        "best_epoch": 1,
        "epochs": 1,
    }
    values = {
        "model": MODEL,
        "channels": 1,
        "task": {"name": "binary"},
        "geometry": geometry,
        "training": training | {"val_dice": 0.0, "samples": 8 * STEPS, "packages": {}},
        "overlap": 0.5,
        "chosen": {
            "choices": {"test_time_augmentation": "none", "crf": None, "postprocess": last},
            "options": [],
            "groups": 0,
            "images": 0,
            "warnings": [],
        },
        "scoring": {
            "tolerance": {"pixels": 2.0, "diagonal": 0.01},
            "counting": {"truth": rule, "prediction": rule},
            "uncertainty": "none",
        },
    }
    return validate(values, SegmenterDescription, "model.yaml")


def machine() -> dict[str, str | int | None]:
    """Where it was measured."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def markdown(rows: list[dict[str, str | float]]) -> str:
    """The rows as a table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join("---" for _ in rows[0]) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(str(value) for value in line.values()) + " |" for line in rows)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["models"]:
        write_models(Path(sys.argv[2]))  # in a process of its own, whose memory no other inherits
    else:
        main()
