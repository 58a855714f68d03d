"""What a watcher sees while training goes on: validation images, masks and predictions in TensorBoard."""

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from medseg.data.colours import TRUTH, Colour
from medseg.data.image_io import Pixels
from medseg.data.packed import Packed, evenly_spaced
from medseg.data.task import TaskParams
from medseg.previews.drawing import outlined
from medseg.training.lightning_module import predicted_codes

SHOWN = 8


class ValidationImages(pl.Callback):
    """After each epoch, the same few validation samples with the outlines of truth and prediction.

    Truth is green, a binary prediction red; several classes have the colours of the task.
    """

    def __init__(self, val: Packed, task: TaskParams, board: TensorBoardLogger) -> None:
        """`board` gets the images of `val`."""
        self.colours = task.colours
        chosen = evenly_spaced(len(val.images), SHOWN)
        self.images, self.masks = np.array(val.images[chosen]), np.array(val.masks[chosen])
        self.board = board

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict the chosen samples and hand the images to TensorBoard, with the epoch, counted from 1, as x.

        Where several processes train together, the first does it alone.
        """
        if not trainer.is_global_zero:
            return
        pixels = torch.from_numpy(self.images).permute(0, 3, 1, 2).to(pl_module.device)
        network = pl_module.get_submodule("network")
        with torch.no_grad():
            logits = network(pixels)
        colours = self.colours
        codes = predicted_codes(logits).byte().cpu().numpy()
        images = [_drawn(*sample, colours) for sample in zip(self.images, self.masks, codes, strict=True)]
        self.board.experiment.add_images("val", np.stack(images), trainer.current_epoch + 1, dataformats="NHWC")


def _drawn(image: Pixels, truth: Pixels, codes: Pixels, colours: list[Colour]) -> Pixels:
    drawn = outlined(image, truth, TRUTH)
    for code, colour in enumerate(colours, start=1):
        drawn = outlined(drawn, (codes == code).astype(np.uint8), colour)
    return drawn
