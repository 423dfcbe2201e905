"""Without Triton (other systems than Linux) there are no kernels to test."""

import importlib.util

collect_ignore = ["test_kernels.py"] if importlib.util.find_spec("triton") is None else []
