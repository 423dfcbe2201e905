#!/bin/bash
# Run inside an image while it is built: the conda environment cpu or gpu, Snakemake, and this package.
set -euo pipefail
cd "$(dirname "$0")/.."

# A machine that builds images seldom has a GPU: say which CUDA the environment is for.
export CONDA_OVERRIDE_CUDA=13.0
micromamba install --yes --name base --file "envs/$1.yaml"
micromamba install --yes --name base --channel conda-forge --override-channels pip hatchling
micromamba run --name base python -m pip install --no-cache-dir snakemake==9.27.1 click==8.5.1 psutil==7.2.2 pygments==2.21.0
micromamba run --name base python -m pip install --no-cache-dir --no-deps --no-build-isolation .
micromamba clean --all --yes
