"""One training step and one validation step, given network, loss, optimiser and schedule."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, optim

from medseg.core.errors import UserError
from medseg.models.network import Network
from medseg.training.dataloader import Batch
from medseg.training.losses import LossFunction, deep_supervision
from medseg.training.optim import Schedule

Outputs = TypeVar("Outputs", bound=Callable[[Tensor], Any])
HALF = 0.5  # probability from which a pixel counts as foreground while training


class SegmentationTask(pl.LightningModule):
    """Segmentation into foreground or several classes. Logs train/loss, val/loss, val/dice, learning_rate per epoch.

    val/dice is 2 TP / (2 TP + FP + FN), counts pooled over all pixels of val; with several classes it is the mean of
    theirs over those that truth or prediction holds. It picks the best epoch. It is 0 where neither has foreground.
    Where several processes train together, all figures are over the samples of all.
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
        """`logits` is the number of channels that the network puts out: 1, or background and classes.

        With `compiled`, the network runs through `torch.compile`.
        """
        super().__init__()
        self.network = network
        self.loss = loss
        self.loss_of_heads = deep_supervision(loss, head_weights)
        self.supervised = len(head_weights)
        run = torch.compile if compiled else _as_it_is
        self._heads, self._forward = run(network.heads), run(network.forward)
        self.optimizer = optimizer
        self.schedule = schedule
        self._counts = torch.zeros(3, max(1, logits - 1), dtype=torch.long)
        self._losses = torch.zeros(2)  # of the samples validated so far: sum, and how many they are

    def on_train_start(self) -> None:
        """Let the processes drop out units each in its own way; they share one seed until here."""
        if self.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch, over all outputs that `head_weights` weighs."""
        pixels, truth = batch
        heads = self._heads(pixels) if self.supervised > 1 else [self._forward(pixels)]
        loss = self.loss_of_heads(heads, truth)
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
        self.log("train/loss", loss, batch_size=len(pixels), **settings)
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

    def configure_gradient_clipping(
        self,
        optimizer: optim.Optimizer,  # noqa: ARG002  # Lightning hands it over
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip the gradients by their norm, also before a fused optimiser in bfloat16, which Lightning refuses."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last epoch."""
        self._counts = torch.zeros_like(self._counts, device=self.device)
        self._losses = torch.zeros_like(self._losses, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Add one batch to val/loss, that of the final output, and to the pooled counts; it may have no samples."""
        pixels, truth = batch
        if len(pixels) == 0:
            return
        logits = self._forward(pixels)
        loss = self.loss(logits, truth).float()
        self._losses += torch.stack([loss * len(pixels), torch.full_like(loss, len(pixels))])
        self._counts += _count(logits, truth)

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss of the samples and the pooled Dice."""
        loss, samples = self._over_all(self._losses)
        self.log("val/loss", loss / samples, prog_bar=True)
        hits, wrong, missed = self._over_all(self._counts)
        total = 2 * hits + wrong + missed
        dice = (2 * hits / total)[total > 0]
        self.log("val/dice", float(dice.mean()) if len(dice) else 0.0, prog_bar=True)
        self._log_step()

    def _over_all(self, sums: Tensor) -> Tensor:
        """The sums over the processes that train together."""
        summed: Tensor = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return summed

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


def _as_it_is(outputs: Outputs) -> Outputs:
    return outputs


def _count(logits: Tensor, truth: Tensor) -> Tensor:
    """True positives, false positives and misses of each class of a batch, (3, classes).

    By comparison, since histograms have no deterministic form on a GPU.
    """
    classes = torch.arange(1, max(2, logits.shape[1]), device=logits.device).view(-1, 1, 1, 1)
    found, true = predicted_codes(logits) == classes, truth[:, 0] == classes
    return torch.stack([part.sum(dim=(1, 2, 3)) for part in (found & true, found & ~true, ~found & true)])


def predicted_codes(logits: Tensor) -> Tensor:
    """(N, K, H, W) logits to codes (N, H, W), long: 0 where foreground is unlikely, else the most probable class."""
    if logits.shape[1] == 1:
        return (logits[:, 0].sigmoid() >= HALF).long()
    probabilities = logits.softmax(1)
    found = 1 - probabilities[:, 0] >= HALF
    return found * (1 + probabilities[:, 1:].argmax(1))
