"""The GPU's driver, started while PyTorch is being imported."""

from __future__ import annotations

import ctypes
import threading


def create_context_ahead() -> None:
    """Create the first visible GPU's context in the background; PyTorch takes it over, or waits for it.

    The one waits for the driver, the other for the interpreter, each for about a second. Without a driver or a GPU
    nothing happens: what is missing is PyTorch's to say.
    """
    threading.Thread(target=_create_context, name="context", daemon=True).start()


def _create_context() -> None:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0:
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
