"""What a watcher sees while training goes on: validation pictures, masks and predictions in TensorBoard."""

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from medseg.figures import PREDICTION, TRUTH, evenly_spaced, outlined
from medseg.imaging import Pixels
from medseg.store import Store

SHOWN = 8


class ValidationPictures(pl.Callback):
    """After each epoch, the same few validation samples with the outlines of truth (green) and prediction (red)."""

    def __init__(self, val: Store, board: TensorBoardLogger) -> None:
        """`board` gets the pictures of `val`."""
        chosen = evenly_spaced(len(val.images), SHOWN)
        self.images, self.masks = np.array(val.images[chosen]), np.array(val.masks[chosen])
        self.board = board

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict the chosen samples and hand the pictures to TensorBoard, with the epoch, counted from 1, as x."""
        pixels = torch.from_numpy(self.images).permute(0, 3, 1, 2).to(pl_module.device)
        network = pl_module.get_submodule("network")
        with torch.no_grad():
            predicted = (network(pixels) >= 0).squeeze(1).byte().cpu().numpy()
        pictures = [self._drawn(*sample) for sample in zip(self.images, self.masks, predicted, strict=True)]
        self.board.experiment.add_images("val", np.stack(pictures), trainer.current_epoch + 1, dataformats="NHWC")

    @staticmethod
    def _drawn(image: Pixels, truth: Pixels, predicted: Pixels) -> Pixels:
        return outlined(outlined(image, truth, TRUTH), predicted, PREDICTION)
