"""Writing tensors to a `.safetensors` file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_NUMBER = re.compile(r"os error (\d+)")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of any device, by name. Raises `OSError` as any other writing does, where the disk is full."""
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        if found := _NUMBER.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
