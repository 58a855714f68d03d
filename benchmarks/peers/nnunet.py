"""nnU-Net v2's trainer: its own loader, augmentation, loss, optimiser and loop on the same images, batch and network.

The network is the pipeline's, with two outputs in place of one, as nnU-Net has them, and without deep supervision.
`benchmarks/peers/nnunet_setup.sh` installs nnU-Net where this finds it. FOLDER/nnunet takes its three folders.
"""

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.side import DEVICE, ROOT, Order, order, recipe, take_turns
from medseg.core.errors import UserError
from medseg.data.packed import open_packed
from medseg.models.network import build_model

INSTALLED = ROOT / ".cache" / "nnunet"
NUMBER, NAME = 1, "Dataset001_Patches"


def main() -> None:
    """Train until the benchmark ends."""
    asked = order()
    home = asked.folder / "nnunet"
    reach(home)
    write_files(asked, home / "raw" / NAME)
    trainer = prepared_trainer(asked, home / "preprocessed" / NAME)
    trainer.on_train_start()

    def epoch() -> None:
        trainer.on_train_epoch_start()
        steps = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(asked.steps)]
        trainer.on_train_epoch_end(steps)
        trainer.current_epoch += 1

    take_turns(asked, epoch)


def reach(folder: Path) -> None:
    """Make nnU-Net importable, and tell it its folders. Raises `UserError` where it is not installed."""
    if not INSTALLED.exists():
        raise UserError(f"{INSTALLED}: nnU-Net is not there: run benchmarks/peers/nnunet_setup.sh")
    sys.path.append(str(INSTALLED))
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
        (folder / name).mkdir(parents=True)


def write_files(asked: Order, raw: Path) -> None:
    """The samples as nnU-Net takes them: PNG files, masks of 0 and 1."""
    import cv2
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json  # type: ignore[import-not-found]

    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    store = open_packed(asked.folder / "train")
    for number, (image, mask) in enumerate(zip(store.images, store.masks, strict=True)):
        cv2.imwrite(str(raw / "imagesTr" / f"p{number:05d}_0000.png"), image[..., ::-1])
        cv2.imwrite(str(raw / "labelsTr" / f"p{number:05d}.png"), mask)
    channels = dict.fromkeys(range(store.images.shape[-1]), "rgb_to_0_1")
    generate_dataset_json(str(raw), channels, {"background": 0, "foreground": 1}, len(store.images), ".png")


def prepared_trainer(asked: Order, home: Path) -> Any:
    """nnU-Net's trainer after its planning and preprocessing, with this batch, patch and network."""
    from batchgenerators.utilities.file_and_folder_operations import load_json  # type: ignore[import-not-found]
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning  # type: ignore[import-not-found]
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # type: ignore[import-not-found]

    workers = len(os.sched_getaffinity(0))
    planning.extract_fingerprints([NUMBER], num_processes=workers)
    planning.plan_experiments([NUMBER])
    planning.preprocess([NUMBER], configurations=("2d",), num_processes=(workers,))
    plans = load_json(str(home / "nnUNetPlans.json")) | {"continue_training": False}
    settings, images = recipe(), open_packed(asked.folder / "train").images
    plans["configurations"]["2d"] |= {
        "batch_size": settings.train.batch_size,
        "patch_size": list(images.shape[1:3]),
        "batch_dice": True,
    }

    class Trainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net is not there when types are checked
        """One fold of everything, on the pipeline's network."""

        @staticmethod
        def build_network_architecture(plans_manager: Any, *others: Any) -> Any:  # noqa: ARG004  # nnU-Net asks its name
            """The pipeline's; of the others, the second and third are how many channels go in and out."""
            _, channels, outputs, _ = others
            return build_model(settings.model, channels, outputs).core

        def set_deep_supervision_enabled(self, enabled: bool) -> None:
            """The network has one output."""

    trainer = Trainer(plans, "2d", "all", load_json(str(home / "dataset.json")), DEVICE)
    trainer.enable_deep_supervision = False
    return trainer


if __name__ == "__main__":
    main()
