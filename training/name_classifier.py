"""Copy a trained classifier under the name it is bundled with."""

import argparse
from dataclasses import replace
from pathlib import Path

from virnucpro.classifier.model import load_classifier, write_classifier


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="classifier.safetensors, made by `virnucpro train`")
    parser.add_argument("bundled", type=Path, help="for example ../resources/models/mini-500.safetensors")
    args = parser.parse_args()
    model, spec = load_classifier(args.trained)
    write_classifier(args.bundled, model, replace(spec, name=args.bundled.stem))


if __name__ == "__main__":
    main()
