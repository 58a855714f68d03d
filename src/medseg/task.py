"""One training step and one validation step, given network, loss, optimiser and schedule."""

from typing import Any

import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, optim

from medseg.errors import UserError
from medseg.loading import Batch
from medseg.losses import LossFunction, deep_supervision
from medseg.models.network import Network
from medseg.optimisation import Schedule

HALF = 0.5  # probability from which a pixel counts as foreground while training


class SegmentationTask(pl.LightningModule):
    """Segmentation into foreground or several classes. Logs train/loss, val/loss, val/dice, learning_rate per epoch.

    val/dice is 2 TP / (2 TP + FP + FN), counts pooled over all pixels of val; with several classes it is the mean of
    theirs over those that truth or prediction holds. It picks the best epoch. It is 0 where neither has foreground.
    """

    def __init__(
        self,
        network: Network,
        loss: LossFunction,
        head_weights: list[float],
        optimizer: optim.Optimizer,
        schedule: Schedule | None,
        logits: int,
    ) -> None:
        """`logits` is the number of channels that the network puts out: 1, or background and classes."""
        super().__init__()
        self.network = network
        self.loss = loss
        self.loss_of_heads = deep_supervision(loss, head_weights)
        self.supervised = len(head_weights)
        self.optimizer = optimizer
        self.schedule = schedule
        self._counts = torch.zeros(3, max(1, logits - 1), dtype=torch.long)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch, over all outputs that `head_weights` weighs."""
        pixels, truth = batch
        heads = self.network.heads(pixels) if self.supervised > 1 else [self.network(pixels)]
        loss = self.loss_of_heads(heads, truth)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's figures beside the weights: schedules that watch one need it to go on."""
        checkpoint["figures"] = {name: float(figure) for name, figure in self.trainer.callback_metrics.items()}

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of the last epoch."""
        self._counts = torch.zeros_like(self._counts, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Add one batch to val/loss, that of the final output, and to the pooled counts."""
        pixels, truth = batch
        logits = self.network(pixels)
        self.log("val/loss", self.loss(logits, truth), batch_size=len(pixels), prog_bar=True)
        self._counts += _count(logits, truth)

    def on_validation_epoch_end(self) -> None:
        """Log the pooled Dice."""
        hits, wrong, missed = self._counts
        total = 2 * hits + wrong + missed
        dice = (2 * hits / total)[total > 0]
        self.log("val/dice", float(dice.mean()) if len(dice) else 0.0, prog_bar=True)
        self._log_step()

    def _log_step(self) -> None:
        # Lightning's loggers take their x from a figure called `step`: the epoch, counted from 1 as people do. It must
        # stand among training's figures and among validation's, which Lightning logs apart.
        self.log("step", float(self.current_epoch + 1))

    def configure_optimizers(self) -> Any:
        """What Lightning asks for."""
        if self.schedule is None:
            return self.optimizer
        schedule = self.schedule
        settings = {"scheduler": schedule.scheduler, "interval": schedule.interval, "monitor": schedule.monitor}
        return {"optimizer": self.optimizer, "lr_scheduler": settings}


def _count(logits: Tensor, truth: Tensor) -> Tensor:
    """True positives, false positives and misses of each class of a batch, (3, classes)."""
    codes = predicted_codes(logits)
    classes = max(2, logits.shape[1])
    stats = smp.metrics.get_stats(codes, truth[:, 0].long(), mode="multiclass", num_classes=classes)
    return torch.stack([part.sum(0)[1:] for part in stats[:3]])


def predicted_codes(logits: Tensor) -> Tensor:
    """(N, K, H, W) logits to codes (N, H, W), long: 0 where foreground is unlikely, else the most probable class."""
    if logits.shape[1] == 1:
        return (logits[:, 0].sigmoid() >= HALF).long()
    probabilities = logits.softmax(1)
    found = 1 - probabilities[:, 0] >= HALF
    return found * (1 + probabilities[:, 1:].argmax(1))
