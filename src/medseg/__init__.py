"""A declarative data-and-training pipeline for biomedical image segmentation."""
