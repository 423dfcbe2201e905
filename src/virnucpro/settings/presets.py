"""Values that choosing one option gives others."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    f"{name}-{length}": {
        "chunk_length": length,
        "dnabert_model": dnabert,
        "esm_model": esm,
        "classifier": f"{name}-{length}",
    }
    for name, dnabert, esm in (("mini", "mini-dnabert-s", "mini-esm2"), ("virnucpro", "DNABERT-S", "3B"))
    for length in (500, 300)
}
"""What a preset puts in place of null."""
ORIGINAL: dict[str, Any] = {"precision": "fp32", "compile": False}
"""What ``batching: original`` puts in place of anything."""
DEFAULT_MODELS_DIR = "~/.cache/virnucpro/models"
