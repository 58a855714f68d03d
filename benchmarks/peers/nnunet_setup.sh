#!/bin/sh
# Installs nnU-Net v2 into .cache/nnunet, for `python -m benchmarks.training --nnunet` alone. The project's environment
# stays as it is: torch, numpy, timm and the like are taken from there, and only what it lacks is installed.
set -e
cd "$(dirname "$0")/../.."
"${UV:-uv}" pip install --python "${PYTHON:-.venv/bin/python}" --target .cache/nnunet --no-deps \
    nnunetv2==2.8.1 acvl-utils==0.2.6 batchgenerators==0.25.5 batchgeneratorsv2==0.3.6 blosc2==4.14.1 \
    connected-components-3d==4.1.1 contourpy==1.3.3 cycler==0.12.1 dynamic-network-architectures==0.4.4 \
    einops==0.8.2 fonttools==4.68.0 future==1.0.0 graphviz==0.21 h2==4.4.1 hpack==4.2.0 httpcore==1.0.9 httpx==0.28.1 \
    hyperframe==6.1.0 imagecodecs==2026.1.14 kiwisolver==1.5.1 linecache2==1.0.0 matplotlib==3.11.2 ndindex==1.10.1 \
    nibabel==5.4.2 numexpr==2.14.2 seaborn==0.13.2 traceback2==1.4.0 unittest2==1.1.0 yacs==0.1.8
