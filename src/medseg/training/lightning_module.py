"""One training step and one validation step of a network."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, optim

from medseg.core.errors import UserError
from medseg.data.task import UNANNOTATED
from medseg.models.network import Network
from medseg.training.dataloader import Batch
from medseg.training.losses import LossFunction, deep_supervision
from medseg.training.optim import Schedule

THRESHOLD = 0.5  # probability from which a pixel counts as foreground while training


class SegmentationModule(pl.LightningModule):
    """Segmentation into foreground or several classes. Logs train/loss, val/loss, val/dice, learning_rate per epoch.

    val/dice, by which the best epoch is chosen, is 2 TP / (2 TP + FP + FN) with counts pooled over all annotated pixels
    of the validation set; with several classes, its mean over those that occur in truth or prediction. It is 0 where
    neither has foreground. With several ranks, all metrics are over the samples of all.

    `constant_dice` is the highest val/dice that a prediction of one class for all pixels has; 0 where nothing is
    annotated in the validation set.
    """

    def __init__(
        self,
        network: Network,
        loss: LossFunction,
        head_weights: list[float],
        optimizer: optim.Optimizer,
        schedule: Schedule | None,
        logits: int,
        compiled: bool = False,
    ) -> None:
        """`logits` is the network's number of output channels; `compiled` runs it through `torch.compile`."""
        super().__init__()
        self.network = network
        self.loss = loss
        self.loss_of_heads = deep_supervision(loss, head_weights)
        self.supervised = len(head_weights)
        self._heads, self._forward = network.heads, network.forward
        if compiled:
            self._heads, self._forward = torch.compile(network.heads), torch.compile(network.forward)
        self.optimizer = optimizer
        self.schedule = schedule
        self._counts = torch.zeros(3, max(1, logits - 1), dtype=torch.long)
        self._losses = torch.zeros(2)  # sum over the samples validated so far, and their number
        self._pixels = torch.zeros(1, dtype=torch.long)  # validated so far
        self.constant_dice = 0.0

    def on_train_start(self) -> None:
        """Give each rank a seed of its own for dropout; until here they share one."""
        if self.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch, over all outputs that `head_weights` weighs."""
        pixels, truth = batch
        heads = self._heads(pixels) if self.supervised > 1 else [self._forward(pixels)]
        loss = self.loss_of_heads(heads, truth)
        if self.trainer.world_size > 1:
            loss = loss * self._share(truth)
        # Sizes of batches are nearly equal, so each counts as one: Lightning averages uneven sizes as whole numbers.
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
        self.log("train/loss", loss, batch_size=1, **settings)
        return loss

    def _share(self, truth: Tensor) -> Tensor:
        """Return the weight with which the mean over ranks is that over all annotated pixels of the batch."""
        own = (truth != UNANNOTATED).sum().float()
        total = own.clone()
        torch.distributed.all_reduce(total)  # the strategy's sum would wait for all ranks beforehand
        return own * self.trainer.world_size / total.clamp_min(1)

    def on_train_epoch_start(self) -> None:
        """Log the learning rate at the start of the epoch."""
        self.log("learning_rate", float(self.optimizer.param_groups[0]["lr"]))
        self._log_step()

    def on_train_epoch_end(self) -> None:
        """Raise `UserError` where a loss is not finite: training can't recover."""
        losses = {name: self.trainer.callback_metrics[name] for name in ("train/loss", "val/loss")}
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise UserError(
                    f"{name} is {float(loss)} in epoch {self.current_epoch + 1}, training has diverged: lower "
                    "optimizer.learning_rate in params.yaml (or set train.gradient_clip, or train.precision: 32-true)"
                )

    def configure_gradient_clipping(
        self,
        optimizer: optim.Optimizer,  # noqa: ARG002  # Lightning hands it over
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip gradients by their norm, also for a fused optimiser in bfloat16, which Lightning refuses."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums."""
        self._counts = torch.zeros_like(self._counts, device=self.device)
        self._losses = torch.zeros_like(self._losses, device=self.device)
        self._pixels = torch.zeros_like(self._pixels, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Add one batch, which may be empty, to the sums: the loss of the final output, and pixel counts."""
        pixels, truth = batch
        if len(pixels) == 0:
            return
        logits = self._forward(pixels)
        loss = self.loss(logits, truth).float()
        self._losses += torch.stack([loss * len(pixels), torch.full_like(loss, len(pixels))])
        self._counts += _count(logits, truth)
        self._pixels += (truth != UNANNOTATED).sum()

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss over samples and the pooled Dice."""
        loss, samples = self._sum_over_ranks(self._losses)
        self.log("val/loss", loss / samples, prog_bar=True)
        true_positives, false_positives, false_negatives = self._sum_over_ranks(self._counts)
        total = 2 * true_positives + false_positives + false_negatives
        dice = (2 * true_positives / total)[total > 0]
        self.log("val/dice", float(dice.mean()) if len(dice) else 0.0, prog_bar=True)
        self.constant_dice = _constant_dice(true_positives + false_negatives, self._sum_over_ranks(self._pixels))
        self._log_step()

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        """Sum over all ranks."""
        summed: Tensor = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return summed

    def _log_step(self) -> None:
        # Lightning's loggers take x from a metric called `step`: here the epoch, from 1. It must be logged with the
        # metrics of training and of validation, which Lightning logs apart.
        self.log("step", float(self.current_epoch + 1))

    def configure_optimizers(self) -> Any:
        """Return optimiser and schedule, as Lightning asks for them."""
        if self.schedule is None:
            return self.optimizer
        schedule = self.schedule
        settings = {"scheduler": schedule.scheduler, "interval": schedule.interval, "monitor": schedule.monitor}
        return {"optimizer": self.optimizer, "lr_scheduler": settings}


def _constant_dice(truth: Tensor, pixels: Tensor) -> float:
    """Return the highest mean Dice of one class for all `pixels`, of which `truth` (classes,) belong to each."""
    dice = 2 * truth / (truth + pixels)
    return float(dice.max() / (truth > 0).sum().clamp(min=1))


def _count(logits: Tensor, truth: Tensor) -> Tensor:
    """Return true positives, false positives and false negatives of each class of a batch, (3, classes).

    Only pixels that are annotated count.

    Comparisons, since histograms have no deterministic kernel on a GPU.
    """
    classes = torch.arange(1, max(2, logits.shape[1]), device=logits.device).view(-1, 1, 1, 1)
    found, true = predicted_codes(logits) == classes, truth[:, 0] == classes
    false = ~true & (truth[:, 0] != UNANNOTATED)
    return torch.stack([part.sum(dim=(1, 2, 3)) for part in (found & true, found & false, ~found & true)])


def predicted_codes(logits: Tensor) -> Tensor:
    """Return class codes (N, H, W), long, of logits (N, K, H, W).

    0 where the probability of all foreground classes together is below 0.5, else the most probable of them.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0].sigmoid() >= THRESHOLD).long()
    probabilities = logits.softmax(1)
    found = 1 - probabilities[:, 0] >= THRESHOLD
    return found * (1 + probabilities[:, 1:].argmax(1))
