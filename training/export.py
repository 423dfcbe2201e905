"""Averaged weights of checkpoints → the two prepared files in half precision."""

import argparse
import json
from pathlib import Path

import torch
from models import Pair

from virnucpro.encoders.loading import write_encoder
from virnucpro.encoders.spec import verify_encoder


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("protein", type=Path, help="checkpoint that the protein encoder is taken from")
    parser.add_argument("dna", type=Path, help="checkpoint that the DNA encoder is taken from")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path, help="where mini-dnabert-s.safetensors and mini-esm2.safetensors go")
    args = parser.parse_args()
    tokenizer = json.dumps(json.loads(args.tokenizer.read_text()), separators=(",", ":"))
    encoders = {}
    for path, part in ((args.protein, "esm"), (args.dna, "dna")):
        state = torch.load(path, map_location="cpu")
        encoder = getattr(Pair(state["esm"], state["dna"], 10, tokenizer), part)
        best = state.get("best", (0, 0, None))[2]  # the averaged weights that did best on the validation pool
        weights = best if best is not None else state["average"]
        encoder.load_state_dict({k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(f"{part}.")})
        encoders[part] = encoder
    args.folder.mkdir(parents=True, exist_ok=True)
    for encoder, name in ((encoders["dna"], "mini-dnabert-s"), (encoders["esm"], "mini-esm2")):
        path = args.folder / f"{name}.safetensors"
        write_encoder(encoder.half(), path, name=name, source={"name": f"VirNucPro training/ ({name})", "files": {}})
        spec = verify_encoder(path)
        print(path, path.stat().st_size, "bytes", spec.weights_sha256)


if __name__ == "__main__":
    main()
