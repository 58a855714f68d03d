"""A model as one ONNX file that stands alone: the network with all that lies around it, and its description.

ONNX Runtime and others run it without PyTorch and without this project.
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
from medseg.inference.backends import DESCRIPTION_KEY, INPUT, OUTPUT
from medseg.inference.torch_backend import load_segmenter, network_forward
from medseg.models.model_yaml import Description
from medseg.models.network import Network

Size = tuple[int, int]  # height, width; pixels

OPSET = 17  # the version of ONNX's operators
TOLERANCE = 1e-4  # greatest difference in probability between PyTorch and ONNX Runtime
_FREE = {0: "images", 2: "height", 3: "width"}
_TRIED = ((64, 96), (75, 50))  # sizes in pixels on which a file of any size is checked


class ExportedNetwork(nn.Module):
    """A network between raw pixels and probabilities, as tracing can follow it.

    Takes (N, C, H, W) pixels from 0 to 255 of any dtype and any size, gives (N, K, H, W) float32 in 0..1: with one
    logit the sigmoid, foreground; with several the softmax, background first.
    """

    def __init__(self, network: Network) -> None:
        """Wrap a copy of `network`."""
        super().__init__()
        self.network = copy.deepcopy(network)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (N, K, H, W) of pixels (N, C, H, W)."""
        height, width = pixels.shape[-2:]
        padding = (0, self._missing(width), 0, self._missing(height))
        padded = functional.pad(self.network.normalised(pixels), padding, mode="replicate")
        logits = self.network.core(padded)[..., :height, :width].float()
        probabilities: Tensor = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
        return probabilities

    def _missing(self, side: int) -> int:
        """How many pixels a side lacks to what the network pads it to.

        In arithmetic that tracing follows: the network's own has `max`, whose outcome would be fixed to that of the
        traced image, and divides a negative number, which ONNX rounds the other way.
        """
        smallest, divisor = self.network.smallest, self.network.divisor
        greater = (side + smallest + abs(side - smallest)) // 2
        return (greater + divisor - 1) // divisor * divisor - side


def export(folder: Path, path: Path, tile: int | None = None) -> Size | None:
    """Write the model folder's network to `path` as ONNX and give the only size it takes, None where it takes any.

    Input `pixels` (N, C, H, W) uint8, 0..255, RGB or grey; output `probabilities` (N, K, H, W) float32. Normalisation,
    padding and cropping are inside. The metadata hold the description (`backends.DESCRIPTION_KEY`, as JSON) and the
    size in words. N is free, and so are H and W unless `tile` fixes them.

    The file is run and compared with PyTorch before it takes its name. Raises `UserError` where the model is
    unreadable, `tile` does not fit, or the network can't be exported.
    """
    network, description = load_segmenter(folder)
    size = None if tile is None else (tile, tile)
    _check_tile(description, tile)
    with atomic_file(path) as partial:
        try:
            _trace(ExportedNetwork(network).eval(), description, size, partial)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise UserError(f"{folder}: the network can't be written as ONNX: {_first_line(error)}") from error
        _describe(partial, description, size)
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
    # The exporter by tracing: the newer one takes 20 s instead of 1 and is as exact.
    axes = _FREE if size is None else {0: _FREE[0]}
    pixels = torch.from_numpy(_noise(description, size or (128, 128)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older exporter, and what it traces as constants
        # Traced before, the library's PSPNet does not see that it is exported and takes its usual way.
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


def _describe(path: Path, description: Description, size: Size | None) -> None:
    model = onnx.load(path)
    entries = {
        DESCRIPTION_KEY: json.dumps(description.model_dump()),
        "input": f"{INPUT}: uint8 0..255, (images, channels, height, width), {_colours(description)}",
        "output": f"{OUTPUT}: float32 0..1, (images, classes, height, width), {_planes(description)}",
        "size": "any" if size is None else f"{size[1]}x{size[0]} pixels alone",
    }
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _colours(description: Description) -> str:
    return "RGB" if description.channels == 3 else "grey"


def _planes(description: Description) -> str:
    task = description.task
    return ", ".join(task.names if task.has_classes else task.class_names)


def _check(network: Network, description: Description, size: Size | None, path: Path, folder: Path) -> None:
    """Hold the file against the network as prediction runs it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    by_torch = network_forward(network, torch.device("cpu"))
    for tried in _TRIED if size is None else (size,):
        pixels = _noise(description, tried)
        expected = by_torch(pixels.transpose(0, 2, 3, 1))
        difference = float(np.abs(session.run([OUTPUT], {INPUT: pixels})[0] - expected).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{folder}: its ONNX form differs from it by {difference:.2g} in probability on {tried[1]}x{tried[0]} "
                "pixels; nothing was written"
            )


def _noise(description: Description, size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Two images (2, C, H, W) of one value per pixel drawn evenly from 0..255, always the same."""
    return np.random.default_rng(0).integers(0, 256, (2, description.channels, *size), np.uint8)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
