"""Export of a model as one ONNX file: network, normalisation, padding, activation, and the description as metadata.

It runs in ONNX Runtime and other runtimes without PyTorch and without this project.
"""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.core.files import atomic_file
from medseg.data.geometry import Patchify, Scale
from medseg.data.intensity import in_words
from medseg.data.task import Task
from medseg.data.training_images import read_training_images, training_images_text
from medseg.inference.backends import DESCRIPTION_KEY, IMAGES_KEY, INPUT, OUTPUT
from medseg.inference.onnx_graph import OPSET, graph_fault
from medseg.inference.torch_backend import load_segmenter, network_forward
from medseg.models.model_yaml import Description
from medseg.models.network import Network

Size = tuple[int, int]  # height, width; pixels

TOLERANCE = 1e-4  # the greatest accepted difference in probability between PyTorch and ONNX Runtime
_DYNAMIC_AXES = {0: "images", 2: "height", 3: "width"}
_CHECKED_SIZES = ((64, 96), (75, 50))  # pixels, where the file takes any size


class ExportedNetwork(nn.Module):
    """A network from raw pixels to probabilities, in a form that can be traced.

    Takes pixels (N, C, H, W), 0..255, of any dtype and size; returns (N, K, H, W) float32 in 0..1, as
    `task.probabilities` gives them.
    """

    def __init__(self, network: Network, task: Task) -> None:
        """Wrap a copy of `network`."""
        super().__init__()
        self.network = copy.deepcopy(network)
        self.task = task

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (N, K, H, W) of pixels (N, C, H, W)."""
        height, width = pixels.shape[-2:]
        padding = (0, self._missing(width), 0, self._missing(height))
        padded = functional.pad(self.network.normalised(pixels), padding, mode="replicate")
        return self.task.probabilities(self.network.core(padded)[..., :height, :width].float())

    def _missing(self, side: int) -> int:
        """By how many pixels the network pads a side, in arithmetic that tracing records.

        `Network` uses `max`, which tracing would freeze at the traced size, and floor division of a negative number,
        which ONNX rounds the other way.
        """
        smallest, divisor = self.network.smallest, self.network.divisor
        greater = (side + smallest + abs(side - smallest)) // 2
        return (greater + divisor - 1) // divisor * divisor - side


def export(folder: Path, path: Path, tile: int | None = None) -> Size | None:
    """Write the network of a model folder to `path` as ONNX; return the only size that it takes, None for any.

    Input `pixels` (N, C, H, W) uint8, 0..255, RGB or grey; output `probabilities` (N, K, H, W) float32, 0..1.
    Normalisation, padding and cropping are inside. The metadata hold the description (`backends.DESCRIPTION_KEY`,
    JSON), which images trained the model (`backends.IMAGES_KEY`), and input, output and size in words. N is dynamic,
    and so are H and W unless `tile` fixes both.

    The file is compared with PyTorch before it gets its name. Raises `UserError` where the model is unreadable, `tile`
    does not fit, or the network can't be exported.
    """
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name a file in it, such as {path / 'segmenter.onnx'}")
    network, description = load_segmenter(folder)
    size = None if tile is None else (tile, tile)
    _check_tile(description, tile)
    with atomic_file(path) as partial:
        try:
            _trace(ExportedNetwork(network, description.task).eval(), description, size, partial)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            first_line = str(error).strip().split("\n")[0]
            raise UserError(f"{folder}: the network can't be written as ONNX: {first_line}") from error
        _describe(partial, description, size, folder)
        _check(network, description, size, partial, folder)
    return size


def _check_tile(description: Description, tile: int | None) -> None:
    geometry = description.geometry
    if tile is None or isinstance(geometry, Scale):
        return
    height, width = (
        (geometry.patch, geometry.patch) if isinstance(geometry, Patchify) else (geometry.height, geometry.width)
    )
    if (height, width) != (tile, tile):
        raise UserError(f"--tile {tile}: the network's samples measure {width}x{height}; leave --tile out")


def _trace(network: ExportedNetwork, description: Description, size: Size | None, path: Path) -> None:
    # The older exporter, which traces: the newer one takes 20 s instead of 1 and is as exact.
    axes = _DYNAMIC_AXES if size is None else {0: _DYNAMIC_AXES[0]}
    pixels = torch.from_numpy(_noise(description, size or (128, 128)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older exporter, and which values become constants
        # Traced beforehand, so that the library's PSPNet does not take its own path for export.
        torch.onnx.export(
            torch.jit.trace(network, pixels, check_trace=False),  # type: ignore[no-untyped-call]
            (pixels,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
        )


def _describe(path: Path, description: Description, size: Size | None, folder: Path) -> None:
    task, colours = description.task, "RGB" if description.channels == 3 else "grey"
    channels = task.names if task.has_classes else task.class_names
    model = onnx.load(path)
    if fault := graph_fault(model):
        raise UserError(f"{folder}: its network can't be exported: {fault}")
    entries = {
        DESCRIPTION_KEY: json.dumps(description.model_dump()),
        IMAGES_KEY: training_images_text(read_training_images(folder)),
        "input": f"{INPUT}: uint8 0..255, (images, channels, height, width), {colours}",
        "intensity": in_words(description.intensity),
        "output": f"{OUTPUT}: float32 0..1, (images, classes, height, width), {', '.join(channels)}",
        "size": "any" if size is None else f"{size[1]}x{size[0]} pixels alone",
    }
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _check(network: Network, description: Description, size: Size | None, path: Path, folder: Path) -> None:
    """Raise `UserError` where the file's probabilities differ from PyTorch's by more than `TOLERANCE`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    by_torch = network_forward(network, description.task, torch.device("cpu"))
    for tried in _CHECKED_SIZES if size is None else (size,):
        pixels = _noise(description, tried)
        expected = by_torch(pixels.transpose(0, 2, 3, 1))
        difference = float(np.abs(session.run([OUTPUT], {INPUT: pixels})[0] - expected).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{folder}: its ONNX form differs from it by {difference:.2g} in probability on {tried[1]}x{tried[0]} "
                "pixels; nothing was written"
            )


def _noise(description: Description, size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Two images (2, C, H, W) of uniform noise, 0..255, with a fixed seed."""
    return np.random.default_rng(0).integers(0, 256, (2, description.channels, *size), np.uint8)
