"""Opening a model for prediction: a folder with PyTorch, an ONNX file with ONNX Runtime."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.core.errors import UserError
from medseg.core.files import read_bytes
from medseg.core.params import validate
from medseg.data.image_io import Pixels
from medseg.inference.postprocess import Probabilities
from medseg.inference.predictor import Predictor
from medseg.inference.settings import SegmenterDescription
from medseg.inference.sliding_window import MAX_PIXELS, MAX_PIXELS_CPU, forward_in_chunks
from medseg.models.model_yaml import DESCRIPTION

Accelerator = Literal["auto", "cpu", "gpu"]
Runtime = Literal["torch", "onnx"]

INPUT, OUTPUT = "pixels", "probabilities"  # names in the ONNX graph
DESCRIPTION_KEY = "description"  # in the ONNX file's metadata: model.yaml as JSON
IMAGES_KEY = "training_images"  # and training_images.csv
NO_GPU = "--accelerator gpu: no GPU can be used here; set it to auto or cpu"


def open_model(path: Path, runtime: Runtime | None, accelerator: Accelerator) -> Predictor:
    """Open a model folder or an ONNX file for prediction.

    A folder runs with PyTorch by default; with `runtime` `onnx`, the one ONNX file in it is used. A file runs with ONNX
    Runtime and imports no PyTorch. Raises `UserError` where there is no model, it is unreadable or incomplete, the
    runtime does not fit, or `gpu` is asked for and none can be used.
    """
    try:
        path.stat()
    except OSError as error:  # a name may be too long, too
        missing = f"no such model folder or ONNX file ({error.strerror})"
        raise UserError(f"--model {path}: {missing}; `make repro` trains models/segmenter") from None
    if path.is_file():
        if runtime == "torch":
            raise UserError(f"--model {path}: a file runs with --runtime onnx; torch needs the model's folder")
        return _open_onnx(path, accelerator)
    return _open_onnx(_only_onnx_file(path), accelerator) if runtime == "onnx" else _open_torch(path, accelerator)


def onnx_entry(path: Path, key: str) -> str:
    """An entry of an ONNX file's metadata. Raises `UserError` where the file is unreadable or has no such entry."""
    text: str | None = _open_session(path, _providers("cpu")).get_modelmeta().custom_metadata_map.get(key)
    if text is None:
        raise UserError(f"{path}: holds no {key.replace('_', ' ')} of the model; write the file with `medseg export`")
    return text


def _only_onnx_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        raise UserError(
            f"--model {folder}: holds {len(found)} ONNX files; name the one to use, or write one with "
            f"`medseg export --model {folder} --out segmenter.onnx`"
        )
    return found[0]


def _open_torch(folder: Path, accelerator: Accelerator) -> Predictor:
    from medseg.inference.torch_backend import choose_device, load_segmenter, network_forward

    device = choose_device(accelerator, "--accelerator")
    network, description = load_segmenter(folder)
    return Predictor(description, network_forward(network, description.task, device))


def _open_onnx(path: Path, accelerator: Accelerator) -> Predictor:
    session = _open_session(path, _providers(accelerator))
    text = session.get_modelmeta().custom_metadata_map.get(DESCRIPTION_KEY)
    if text is None:
        raise UserError(f"{path}: holds no description of the model; write the file with `medseg export`")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its description is not readable as JSON: {error}") from error
    description: SegmenterDescription = validate(values, SegmenterDescription, f"{path}: {DESCRIPTION}")
    _check_graph(session, description, path)
    height, width = session.get_inputs()[0].shape[2:]
    on_cpu = session.get_providers()[0] == "CPUExecutionProvider"
    max_pixels = MAX_PIXELS_CPU if on_cpu else MAX_PIXELS

    def forward(pixels: Pixels) -> Probabilities:
        try:
            channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
            probabilities: Probabilities = session.run([OUTPUT], {INPUT: channels_first})[0]
        except Exception as error:  # as in `_open_session`; PyTorch raises RuntimeError, too
            raise RuntimeError(str(error)) from error
        return probabilities

    size = (height, width) if isinstance(height, int) else None
    return Predictor(description, lambda pixels: forward_in_chunks(forward, pixels, max_pixels), size)


def _check_graph(session: Any, description: SegmenterDescription, path: Path) -> None:
    """Check names, ranks and channels of the graph's input and output (N, C, H, W) against the description."""
    found = [(node.name, len(node.shape), *node.shape[1:2]) for node in (*session.get_inputs(), *session.get_outputs())]
    expected = [(INPUT, 4, description.channels), (OUTPUT, 4, description.task.logits)]
    if found != expected:
        raise UserError(f"{path}: its network is not the one of its description; write the file with `medseg export`")


def _checked_graph(path: Path) -> bytes:
    """The content of an ONNX file. Raises `UserError` where it is none of the kind that `medseg export` writes."""
    import onnx

    from medseg.inference.onnx_graph import MOST_BYTES, graph_fault

    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: not readable as ONNX: larger than {MOST_BYTES} bytes")
    content = read_bytes(path)
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's DecodeError, whose package comes without types
        raise UserError(f"{path}: not readable as ONNX: {error}") from error
    if not model.graph.node:
        raise UserError(f"{path}: not readable as ONNX: it holds no graph")
    if fault := graph_fault(model):
        raise UserError(f"{path}: not run: {fault}; write the file with `medseg export`")
    return content


def _open_session(path: Path, providers: list[str]) -> Any:
    import onnxruntime

    content = _checked_graph(path)
    onnxruntime.set_default_logger_severity(3)  # errors alone; it warns of every dynamic shape
    try:
        return onnxruntime.InferenceSession(content, providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise UserError(f"{path}: not readable as ONNX: {error}") from error


def _providers(accelerator: Accelerator) -> list[str]:
    import onnxruntime

    on_gpu = [name for name in onnxruntime.get_available_providers() if name == "CUDAExecutionProvider"]
    if accelerator == "gpu" and not on_gpu:
        raise UserError(f"{NO_GPU} (ONNX Runtime needs its GPU package)")
    return [*(on_gpu if accelerator != "cpu" else []), "CPUExecutionProvider"]
