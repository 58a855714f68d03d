"""The sections of params.yaml that the stage `train` reads, for a short run."""

from typing import Any

import tiny

SECTIONS: dict[str, Any] = {
    "task": {"name": "binary"},
    "model": tiny.unet().model_dump(),
    "loss": {"name": "bce_dice", "bce_weight": 0.5, "dice_weight": 0.5, "smooth": 1.0, "head_weights": [1.0]},
    "optimizer": {"name": "adam", "fused": True, "learning_rate": 0.003, "encoder_factor": 1.0},
    "scheduler": {"name": "plateau", "monitor": "val/dice", "factor": 0.1, "patience": 2},
    "sampling": {"name": "uniform"},
    "online": tiny.STILL,
    "train": {
        "init_from": None,
        "continue_from": None,
        "initial_overlap": "fail",
        "epochs": 1,
        "batch_size": 2,
        "patience": 2,
        "gradient_clip": 1.0,
        "precision": "32-true",
        "deterministic": True,
        "devices": 1,
        "num_nodes": 1,
        "channels_last": False,
        "compile": False,
        "strategy": "auto",
        "ema_decay": 0.0,
    },
    "logger": {"name": "none"},
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
    "name": "default",
    "seed": 0,
}
NAMES = (
    "params.yaml",
    "augmented",
    "val",
    "weights",
    "overlap.csv",
    "models/network",
    "metrics/train",
    "metrics/train.json",
    "logs",
    "environment.json",
)
