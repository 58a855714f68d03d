"""The sections of training: `loss`, `optimizer`, `scheduler`, `sampling`, `train` and `logger`.

Imports no torch, so every stage can check all sections before any work.

"Empty truth" of a loss is a batch in which every pixel is background.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from medseg.core.params import Section, Word

Weight = Annotated[float, Field(ge=0, le=1000)]
LEAST_WEIGHT = 1e-3
PixelCount = Annotated[float, Field(ge=0, le=1e6)]
L = TypeVar("L", bound="Loss")
Decay = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]  # of the previous step that is added to the next
Divisor = Annotated[float, Field(ge=1, le=1e9)]
Fused = bool  # torch's fused kernel: faster, equal but for rounding


class Loss(Section):
    """Base of all losses: the weights of the outputs of a deeply supervised network.

    The loss of several outputs is sum_i w_i L(output_i, truth) / sum_i w_i, normalised as in nnU-Net (Isensee et al.,
    Nature Methods 2021): the weights do not change the size of the loss.
    """

    head_weights: Annotated[list[Weight], Field(min_length=1, max_length=5)]  # finest first; [1.0]: the final one alone

    @field_validator("head_weights")
    @classmethod
    def _weigh_an_output(cls, weights: list[float]) -> list[float]:
        if sum(weights) < LEAST_WEIGHT:  # their mean would be one of numbers that single precision does not hold
            raise ValueError(f"at least one weight must be greater than 0, their sum at least {LEAST_WEIGHT}")
        return weights


class BCE(Loss):
    """Binary cross-entropy: the mean over all pixels of -log p_t, p_t the probability of the true class.

    Foreground alone. Empty truth: false positives are penalised, as in any batch.
    """

    name: Literal["bce"]


class CrossEntropy(Loss):
    """Cross-entropy: the mean over all pixels of -log p_t, p_t the probability of the true class.

    Several classes. Empty truth: false positives are penalised, as in any batch.
    """

    name: Literal["cross_entropy"]


class Dice(Loss):
    """Soft Dice (Milletari et al., 3DV 2016, without their squares), pooled over the batch.

    1 - (sum(p t) + smooth) / ((sum p + sum t) / 2 + smooth) with probabilities p and truth t. Several classes: the mean
    of this over the classes that occur in the batch; the background is excluded, as in nnU-Net. Empty truth: 0 and
    no gradient, so this loss alone never penalises false positives there.
    """

    name: Literal["dice"]
    smooth: PixelCount  # pixels added to both parts of the fraction


class BCEDice(Loss):
    """bce_weight BCE + dice_weight Dice. Foreground alone. Empty truth: the cross-entropy alone."""

    name: Literal["bce_dice"]
    bce_weight: Weight
    dice_weight: Weight
    smooth: PixelCount

    @model_validator(mode="after")
    def _weigh_a_part(self) -> Self:
        return _check_weights(self, "bce_weight", "dice_weight")


class CEDice(Loss):
    """ce_weight CrossEntropy + dice_weight Dice. Several classes. Empty truth: the cross-entropy alone."""

    name: Literal["ce_dice"]
    ce_weight: Weight
    dice_weight: Weight
    smooth: PixelCount

    @model_validator(mode="after")
    def _weigh_a_part(self) -> Self:
        return _check_weights(self, "ce_weight", "dice_weight")


class Focal(Loss):
    """Focal loss (Lin et al., ICCV 2017, eq. 5): the mean over all pixels of -a_t (1 - p_t)^gamma log p_t.

    p_t is the probability of the true class, a_t is alpha for pixels of any class and 1 - alpha for background.
    The paper divides by the number of objects instead. Several classes: p_t comes from the softmax;
    segmentation-models-pytorch has a sigmoid per class. Empty truth: all pixels count, with weight 1 - alpha.
    """

    name: Literal["focal"]
    alpha: float = Field(ge=0, le=1)
    gamma: float = Field(ge=0, le=5)  # 0: weighted cross-entropy; greater: easy pixels count less


class Tversky(Loss):
    """Tversky loss (Salehi et al., MLMI 2017) and focal Tversky loss (Abraham and Khan, ISBI 2019).

    (1 - TP / (TP + alpha FP + beta FN))^(1 / gamma) with TP = sum(p t), FP = sum(p (1 - t)), FN = sum((1 - p) t),
    pooled over the batch. alpha weighs false positives and beta false negatives, as in Salehi; Abraham and Khan name
    them the other way round. gamma is theirs; that of segmentation-models-pytorch is its inverse. alpha = beta = 0.5 is
    soft Dice without smoothing, alpha = beta = 1 soft Jaccard. Several classes and empty truth: as Dice.
    """

    name: Literal["tversky"]
    alpha: float = Field(gt=0, le=1)
    beta: float = Field(gt=0, le=1)
    gamma: float = Field(ge=1, le=3)  # 1: Tversky loss; greater: steeper where the loss is small


class Lovasz(Loss):
    """Lovász hinge and Lovász-Softmax (Berman et al., CVPR 2018): the Jaccard loss, extended to errors between 0 and 1.

    The pixels are sorted by falling error, and each error is multiplied by the increase of the Jaccard loss when that
    pixel becomes wrong, too (definition 2). Foreground alone: the error is the hinge max(0, 1 - s l) of logit l and
    sign s, 1 for foreground and -1 for background; it is 0 where a pixel is right by a logit of 1 or more, so
    probabilities stay close to 0.5. Several classes: the error of each class is |t - p|, and the loss is the mean over
    the classes that occur, the background among them. Empty truth: with foreground alone, the largest error of all
    pixels; with several classes, the loss of the background.
    """

    name: Literal["lovasz"]
    per_image: bool  # whether each image has a loss of its own, and the batch their mean; else pooled over the batch


LossParams = Annotated[
    BCE | Dice | BCEDice | Focal | Tversky | Lovasz | CrossEntropy | CEDice, Field(discriminator="name")
]


def _check_weights(params: L, *keys: str) -> L:
    if not any(getattr(params, key) for key in keys):
        raise ValueError(f"{' or '.join(keys)} must be greater than 0")
    return params


class Rates(Section):
    """Base of all optimisers: learning rates.

    Pretrained layers should change less (discriminative fine-tuning, Howard and Ruder, ACL 2018, section
    3.2); here those of the encoder.
    """

    learning_rate: float = Field(gt=0, le=10)  # which the schedule multiplies by 0..1
    encoder_factor: float = Field(gt=0, le=1)  # the encoder's rate over learning_rate; 1: one rate for all


class Sgd(Rates):
    """Stochastic gradient descent with momentum (Polyak 1964) and L2 weight decay, as torch defines it.

    b <- momentum b + g, w <- w - rate b, where g holds the gradient and weight_decay w; b starts as the first g. With
    `nesterov`, w <- w - rate (g + momentum b).
    """

    name: Literal["sgd"]
    fused: Fused
    momentum: Momentum
    nesterov: bool
    weight_decay: Decay

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, others: ValidationInfo) -> bool:
        if nesterov and others.data.get("momentum") == 0:
            raise ValueError("needs optimizer.momentum > 0: set it to false, or raise the momentum")
        return nesterov


class Adam(Rates):
    """Adam (Kingma and Ba, ICLR 2015), with the paper's decay rates 0.9 and 0.999."""

    name: Literal["adam"]
    fused: Fused


class AdamW(Rates):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    name: Literal["adamw"]
    fused: Fused
    weight_decay: Decay


class RmsProp(Rates):
    """RMSProp (Tieleman and Hinton 2012): steps over the root of a running mean of squared gradients.

    v <- smoothing v + (1 - smoothing) g^2, b <- momentum b + g / (sqrt(v) + 1e-8), w <- w - rate b; v starts at 0.
    """

    name: Literal["rmsprop"]
    smoothing: float = Field(ge=0, lt=1)  # torch's alpha
    momentum: Momentum


OptimizerParams = Annotated[Sgd | Adam | AdamW | RmsProp, Field(discriminator="name")]


class Plateau(Section):
    """Lower the rate by `factor` after more than `patience` epochs without improvement of the monitored metric.

    A change by less than 0.01 % of the best value is no improvement.
    """

    name: Literal["plateau"]
    monitor: Literal["train/loss", "val/loss", "val/dice"]
    factor: float = Field(gt=0, lt=1)
    patience: int = Field(ge=0, le=100_000)  # epochs


class Cosine(Section):
    """A linear warm-up (Goyal et al. 2017, section 2.2), then half a cosine (Loshchilov and Hutter, ICLR 2017)."""

    name: Literal["cosine"]
    warmup_epochs: float = Field(ge=0, le=100_000)
    final_share: float = Field(ge=0, le=1)  # of learning_rate, at the end


class Poly(Section):
    """The rate falls as (1 - progress)^power (DeepLab, Chen et al., TPAMI 2018, section 4.1)."""

    name: Literal["poly"]
    power: float = Field(gt=0, le=100)


class OneCycle(Section):
    """The 1cycle policy: up to learning_rate and down again, each along half a cosine (Smith and Topin 2019).

    Momentum is not cycled.
    """

    name: Literal["one_cycle"]
    warmup_share: float = Field(gt=0, lt=1)  # of the run, until the peak
    start_divisor: Divisor  # initial rate: learning_rate / start_divisor
    final_divisor: Divisor  # final rate: initial rate / final_divisor


class Constant(Section):
    """The learning rate stays."""

    name: Literal["constant"]


SchedulerParams = Annotated[Plateau | Cosine | Poly | OneCycle | Constant, Field(discriminator="name")]


class Uniform(Section):
    """Every sample once."""

    name: Literal["uniform"]


class Foreground(Section):
    """A share of the draws goes to samples in which enough is annotated, the rest to all samples alike.

    After nnU-Net (Isensee et al., Nature Methods 2021), which draws a third of its patches around foreground.
    """

    name: Literal["foreground"]
    share: float = Field(gt=0, le=1)  # of an epoch's draws
    least: float = Field(gt=0, lt=1)  # annotated share of a sample's pixels that is enough


class Balanced(Section):
    """Every label of the manifest equally often."""

    name: Literal["balanced"]


SamplingParams = Annotated[Uniform | Foreground | Balanced, Field(discriminator="name")]


class TrainParams(Section):
    """The section `train`."""

    init_from: Word | None  # a network in weights/ whose weights are taken; the optimiser starts anew
    continue_from: Word | None  # a network in weights/ that is trained further, with its optimiser and scheduler
    initial_overlap: Literal["fail", "warn"]  # where that network has seen images of val or test
    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=65_536)  # of all ranks together
    # Epochs without a better val/dice before training ends, once the network has learned.
    patience: int = Field(ge=1, le=100_000)
    gradient_clip: float = Field(ge=0, le=1e6)  # largest norm of the gradient; 0: not clipped
    precision: Literal["32-true", "16-mixed", "bf16-mixed"]
    deterministic: bool
    channels_last: bool  # memory format of the weights; batches are so in any case
    compile: bool  # torch.compile
    devices: int = Field(ge=1, le=64)  # ranks per machine, each with a GPU of its own, or on the CPU
    num_nodes: int = Field(ge=1, le=1024)  # machines
    strategy: Literal["auto", "ddp"]  # Lightning's words
    ema_decay: float = Field(ge=0, lt=1)  # of the running mean of the weights that is kept; 0: the weights themselves

    @model_validator(mode="after")
    def _start_from_one_network(self) -> "TrainParams":
        if self.init_from and self.continue_from:
            raise ValueError("init_from and continue_from exclude each other: set one of them to null")
        return self

    @property
    def initial_network(self) -> str | None:
        """The network in weights/ from which training starts, if any."""
        return self.init_from or self.continue_from


class NoLogger(Section):
    """DVCLive alone."""

    name: Literal["none"]


class TensorBoard(Section):
    """TensorBoard event files, with validation images."""

    name: Literal["tensorboard"]


class Csv(Section):
    """One `metrics.csv` per run."""

    name: Literal["csv"]


class Mlflow(Section):
    """MLflow at the address that the environment variable MLFLOW_TRACKING_URI holds, else in `logs/mlflow.db`."""

    name: Literal["mlflow"]
    experiment: str = Field(min_length=1)


LoggerParams = Annotated[NoLogger | TensorBoard | Csv | Mlflow, Field(discriminator="name")]
