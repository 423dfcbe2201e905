"""Tests on a real GPU (marked `gpu`); without one they are skipped, and say so."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no GPU here"))
