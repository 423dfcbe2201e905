"""Copy a trained and calibrated classifier under the name it is bundled with; everything else in its file stays."""

import argparse
from dataclasses import replace
from pathlib import Path

from virnucpro.classifier.spec import read_classifier_spec
from virnucpro.models.model_file import stored_tensors, write_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="classifier.safetensors of `virnucpro classifier calibrate`")
    parser.add_argument("bundled", type=Path, help="for example ../resources/models/mini-500.safetensors")
    args = parser.parse_args()
    spec = replace(read_classifier_spec(args.trained), name=args.bundled.stem)
    write_model(args.bundled, spec, dict(stored_tensors(args.trained)))


if __name__ == "__main__":
    main()
