"""The pipeline's verbs: one module per stage of `dvc.yaml`. They read, call, write, and compute nothing."""
