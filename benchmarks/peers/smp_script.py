"""A segmentation-models-pytorch script with Lightning, as the library's example of binary segmentation shows it.

After `examples/binary_segmentation_intro.ipynb`: a data set of files, as many workers as cores, Dice loss, `get_stats`
in each step, IoU of the epoch. Encoder, decoder widths and batch size are the pipeline's.
"""

import os
from typing import Any

import numpy as np
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.side import ENDLESS, Order, TurnsOfEpochs, order, recipe
from medseg.models.params import Unet
from medseg.training.trainer import Recipe

Sample = dict[str, NDArray[Any]]


class PatchFiles(Dataset[Sample]):
    """Image (C, H, W), 0..255, and mask (1, H, W), 0..1, both float32."""

    def __init__(self, asked: Order) -> None:
        """All PNG files of the order."""
        self.folder, self.names = asked.folder, asked.files

    def __len__(self) -> int:
        """How many."""
        return len(self.names)

    def __getitem__(self, number: int) -> Sample:
        """One of them."""
        image = np.array(Image.open(self.folder / "images" / self.names[number]))
        mask = np.array(Image.open(self.folder / "masks" / self.names[number]))
        channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        return {"image": channels.astype(np.float32), "mask": (mask[None] / 255).astype(np.float32)}


class PatchModel(pl.LightningModule):
    """The example's model."""

    mean: Tensor
    std: Tensor

    def __init__(self, params: Unet, channels: int, steps: int) -> None:
        """`steps` is the length of the cosine schedule."""
        super().__init__()
        self.model = smp.create_model(
            "Unet",
            encoder_name=params.encoder,
            encoder_weights=None,
            in_channels=channels,
            classes=1,
            decoder_channels=params.decoder_channels,
        )
        self.register_buffer("std", torch.tensor(params.input_std).view(1, -1, 1, 1))
        self.register_buffer("mean", torch.tensor(params.input_mean).view(1, -1, 1, 1))
        self.loss_fn = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)
        self.steps = steps
        self.outputs: list[dict[str, Tensor]] = []

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.model((image / 255 - self.mean) / self.std)
        return logits

    def training_step(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """The loss and the counts of a batch."""
        image, mask = batch["image"], batch["mask"]
        assert image.shape[-1] % 32 == 0
        assert mask.max() <= 1.0
        assert mask.min() >= 0
        logits = self(image)
        loss = self.loss_fn(logits, mask)
        found = (logits.sigmoid() > 0.5).float()
        counts = smp.metrics.get_stats(found.long(), mask.long(), mode="binary")
        output = {"loss": loss, **dict(zip(("tp", "fp", "fn", "tn"), counts, strict=True))}
        self.outputs.append(output)
        return output

    def on_train_epoch_end(self) -> None:
        """Log IoU over images and over the data set."""
        counts = [torch.cat([output[name] for output in self.outputs]) for name in ("tp", "fp", "fn", "tn")]
        scores = {
            "train_per_image_iou": smp.metrics.iou_score(*counts, reduction="micro-imagewise"),
            "train_dataset_iou": smp.metrics.iou_score(*counts, reduction="micro"),
        }
        self.log_dict(scores, prog_bar=True)
        self.outputs.clear()

    def configure_optimizers(self) -> Any:
        """Adam along a cosine."""
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.steps, eta_min=1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def main() -> None:
    """Train until the benchmark ends."""
    asked, settings = order(), recipe()
    train(asked, settings)


def train(asked: Order, settings: Recipe) -> None:
    """The example's last cells."""
    assert isinstance(settings.model, Unet), "params.yaml: model: this benchmark compares U-Nets"
    files = PatchFiles(asked)
    # The workers stay, unlike the example's: epochs are so short here that their start would weigh too much.
    workers = os.cpu_count() or 1
    loader = DataLoader(files, settings.train.batch_size, shuffle=True, num_workers=workers, persistent_workers=True)
    model = PatchModel(settings.model, files[0]["image"].shape[0], 100 * asked.steps)
    trainer = pl.Trainer(
        max_epochs=ENDLESS,
        log_every_n_steps=1,
        callbacks=[TurnsOfEpochs(asked)],
        default_root_dir=str(asked.folder / "smp"),
    )
    trainer.fit(model, train_dataloaders=loader)


if __name__ == "__main__":
    main()
