#!/bin/bash
# Run inside an image while it is built: Debian's Python, and this package with all it needs in /opt/venv.
# install.sh cpu|gpu [URL of the index that PyTorch comes from] [flash-attn, as pip takes it]
set -euo pipefail
cd "$(dirname "$0")/.."
device=$1 torch_index=${2:-} flash_attn=${3:-}

compiler=()
case $device in
    cpu) torch_index=${torch_index:-https://download.pytorch.org/whl/cpu} ;;
    gpu) compiler=(gcc libc6-dev python3-dev) ;; # Triton compiles what launches its kernels where they run
    *)
        echo "install.sh: DEVICE is '$device', but there are cpu and gpu" >&2
        exit 2
        ;;
esac
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv "${compiler[@]}"
apt-get clean
rm -rf /var/lib/apt/lists/*

export PIP_CONSTRAINT=$PWD/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv /opt/venv
pip=(/opt/venv/bin/python -m pip install)
if [ "$torch_index" ]; then # what PyTorch needs comes from PyPI, as the constraints have it
    "${pip[@]}" --no-deps --index-url "$torch_index" torch
fi
"${pip[@]}" .
if [ "$flash_attn" ]; then
    "${pip[@]}" "$flash_attn"
fi
