"""The older project's loop on the pipeline's network: a PNG file per patch, one process, float32, loss read each step.

Each sample is opened by Pillow, flipped by albumentations and made a tensor by torchvision; cross-entropy, Adam.
"""

from pathlib import Path

import albumentations as A  # noqa: N812
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor  # type: ignore[import-untyped]

from benchmarks.peers.side import DEVICE, order, recipe, take_turns
from medseg.models.network import GREATEST_VALUE, build_model


class PatchFiles(Dataset[tuple[Tensor, Tensor]]):
    """Pixels (C, H, W) and truth (1, H, W), both 0..1, of the files of a folder."""

    def __init__(self, folder: Path, names: list[str], mode: str) -> None:
        """`mode` is Pillow's: L or RGB."""
        self.folder, self.names, self.mode = folder, names, mode
        self.transform = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
        self.to_tensor = ToTensor()

    def __len__(self) -> int:
        """How many."""
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """One of them."""
        image = np.array(Image.open(self.folder / "images" / self.names[number]).convert(self.mode))
        mask = np.array(Image.open(self.folder / "masks" / self.names[number]).convert("L"))
        varied = self.transform(image=image, mask=mask)
        return self.to_tensor(varied["image"]), self.to_tensor(varied["mask"])


def main() -> None:
    """Train until the benchmark ends."""
    asked, settings = order(), recipe()
    names = asked.files
    mode = Image.open(asked.folder / "images" / names[0]).mode
    network = build_model(settings.model, len(mode), 1).to(DEVICE).train()
    files = PatchFiles(asked.folder, names, mode)
    batches = DataLoader(files, settings.train.batch_size, shuffle=True, num_workers=0, drop_last=True)
    loss, optimizer = nn.BCEWithLogitsLoss(), torch.optim.Adam(network.parameters(), lr=2e-5)

    def epoch() -> float:
        total = 0.0
        for pixels, truth in batches:
            pixels, truth = pixels.to(DEVICE), truth.to(DEVICE)
            optimizer.zero_grad()
            value = loss(network(pixels * GREATEST_VALUE), truth)
            value.backward()
            optimizer.step()
            total += value.item()
        return total / len(batches)

    take_turns(asked, epoch)


if __name__ == "__main__":
    main()
