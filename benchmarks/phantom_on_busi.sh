#!/usr/bin/env bash
# How near the phantom is to the real thing: scores models/network, trained on phantoms alone by the default
# `make repro`, on the very test pictures of BUSI that the experiment sample_busi is scored on.
# Needs BUSI where data=busi finds it (MEDSEG_DATA). Prints the metrics; leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
medseg params --output "$work/params.yaml" experiment=sample_busi
python -m stages.download "$work/params.yaml" "$work/raw"
python -m stages.manifest "$work/params.yaml" "$work/raw" conf/lists "$work/manifest.csv" "$work/splits" "$work/audit.json"
python -m stages.evaluate "$work/params.yaml" "$work/raw" "$work/manifest.csv" models/network \
    "$work/segmenter" "$work/predictions" "$work/metrics.json" "$work/plots"
cat "$work/metrics.json"
