"""Pure compute: the pipeline's network, loss, optimiser, clipping and precision on one resident batch."""

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.peers.side import DEVICE, first_batch, order, recipe, take_turns
from medseg.models.network import build_model
from medseg.training.losses import build_loss
from medseg.training.optim import build_optimizer

PRECISIONS = {"32-true": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def main() -> None:
    """Train until the benchmark ends."""
    asked, settings = order(), recipe()
    pixels, truth = first_batch(asked.folder, settings.train.batch_size)
    network = build_model(settings.model, pixels.shape[1], 1).to(DEVICE).train()
    if settings.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves its type out
    run = torch.compile(network) if settings.train.compile else network
    loss, optimizer = build_loss(settings.loss, 1), build_optimizer(settings.optimizer, network)
    torch.use_deterministic_algorithms(settings.train.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module's class
    torch.backends.cudnn.benchmark = not settings.train.deterministic
    dtype = PRECISIONS[settings.train.precision]
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype is torch.float16)

    def epoch() -> None:
        for _ in range(asked.steps):
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, dtype, enabled=dtype is not None):
                value = loss(run(pixels), truth)
            scaler.scale(value).backward()  # type: ignore[no-untyped-call]  # torch leaves its type out
            scaler.unscale_(optimizer)
            if settings.train.gradient_clip:
                clip_grad_norm_(network.parameters(), settings.train.gradient_clip)
            scaler.step(optimizer)
            scaler.update()

    take_turns(asked, epoch)


if __name__ == "__main__":
    main()
