"""Averaged weights of a checkpoint → the two prepared files in half precision."""

import argparse
import json
from pathlib import Path

import torch
from models import PREPARED, Pair

from virnucpro.encoders.loading import write_encoder
from virnucpro.encoders.spec import verify_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path, help="where mini-dnabert-s.safetensors and mini-esm2.safetensors go")
    args = parser.parse_args()
    tokenizer = json.dumps(json.loads(args.tokenizer.read_text()), separators=(",", ":"))
    args.folder.mkdir(parents=True, exist_ok=True)
    pair = Pair.read(args.checkpoint, torch.device("cpu"), tokenizer)
    for name, (_, learner) in zip(PREPARED, pair.encoders(), strict=True):
        output = args.folder / f"{name}.safetensors"
        source = {"name": f"VirNucPro training/ ({name})", "files": {}}
        write_encoder(learner.encoder.half(), output, name=name, source=source)
        print(output, output.stat().st_size, "bytes", verify_encoder(output).weights_sha256)


if __name__ == "__main__":
    main()
