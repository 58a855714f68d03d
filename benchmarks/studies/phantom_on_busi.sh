#!/usr/bin/env bash
# How near the phantom is to the real thing: scores models/segmenter, which the default `make repro` made of phantoms
# alone, threshold and all, on the very test images of BUSI that the experiment sample_busi is scored on.
# Needs BUSI where data=busi finds it (MEDSEG_DATA). Prints the metrics; leaves nothing behind. Another model folder may
# be named: `benchmarks/studies/phantom_on_busi.sh FOLDER`.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=src
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
medseg params --output "$work/params.yaml" experiment=sample_busi
python -m stages.download "$work/params.yaml" "$work/raw"
python -m stages.manifest "$work/params.yaml" "$work/raw" conf/lists weights "$work/manifest.csv" "$work/splits" \
    "$work/overlap.csv" "$work/audit.json"
while IFS= read -r file; do
    mkdir -p "$work/test/$(dirname "$file")"
    cp "$work/raw/${file%.png}".png "$work/raw/${file%.png}"_mask*.png "$work/test/$(dirname "$file")"
done <"$work/splits/test.txt"
medseg evaluate --model "${1:-models/segmenter}" --data "$work/test" --layout busi --out "$work/scored"
cat "$work/scored/metrics.json"
