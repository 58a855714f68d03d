"""One training step and one validation step, given network, loss, optimiser and schedule."""

from typing import Any

import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn, optim

from medseg.errors import UserError
from medseg.losses import LossFunction

Batch = tuple[Tensor, Tensor]  # pixels (N, C, H, W) uint8 and truth (N, 1, H, W) uint8


class SegmentationTask(pl.LightningModule):
    """Binary segmentation. Logs train/loss, val/loss, val/dice and learning_rate once per epoch.

    val/dice is 2 TP / (2 TP + FP + FN) at probability 0.5, counts pooled over all pixels of val; it picks the best
    epoch. It is 0 where neither truth nor prediction has foreground.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: LossFunction,
        optimizer: optim.Optimizer,
        scheduler: optim.lr_scheduler.ReduceLROnPlateau | None,
        monitor: str,
    ) -> None:
        """`monitor` names the logged figure that the scheduler watches."""
        super().__init__()
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.monitor = monitor
        self._counts = torch.zeros(3, dtype=torch.long)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch."""
        pixels, truth = batch
        loss = self.loss(self.network(pixels), truth.float())
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(pixels), prog_bar=True)
        return loss

    def on_train_epoch_start(self) -> None:
        """Log the rate that this epoch begins with."""
        self.log("learning_rate", float(self.optimizer.param_groups[0]["lr"]))
        self._log_step()

    def on_train_epoch_end(self) -> None:
        """Stop with a `UserError` where the loss is no number any more: all later epochs would be lost."""
        losses = {name: self.trainer.callback_metrics[name] for name in ("train/loss", "val/loss")}
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise UserError(
                    f"{name} is {float(loss)} in epoch {self.current_epoch + 1}, training has diverged: lower "
                    "optimizer.learning_rate in params.yaml (or set train.gradient_clip, or train.precision: 32-true)"
                )

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of the last epoch."""
        self._counts = torch.zeros(3, dtype=torch.long, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Add one batch to val/loss and to the pooled counts."""
        pixels, truth = batch
        logits = self.network(pixels)
        self.log("val/loss", self.loss(logits, truth.float()), batch_size=len(pixels), prog_bar=True)
        stats = smp.metrics.get_stats(logits.sigmoid(), truth.long(), mode="binary", threshold=0.5)
        self._counts += torch.stack([part.sum() for part in stats[:3]])  # true positives, false positives, misses

    def on_validation_epoch_end(self) -> None:
        """Log the pooled Dice."""
        true_positives, false_positives, misses = self._counts.tolist()
        total = 2 * true_positives + false_positives + misses
        self.log("val/dice", 2 * true_positives / total if total else 0.0, prog_bar=True)
        self._log_step()

    def _log_step(self) -> None:
        # Lightning's loggers take their x from a figure called `step`: the epoch, counted from 1 as people do. It must
        # stand among training's figures and among validation's, which Lightning logs apart.
        self.log("step", float(self.current_epoch + 1))

    def configure_optimizers(self) -> Any:
        """What Lightning asks for."""
        if self.scheduler is None:
            return self.optimizer
        return {
            "optimizer": self.optimizer,
            "lr_scheduler": {"scheduler": self.scheduler, "monitor": self.monitor, "interval": "epoch"},
        }
