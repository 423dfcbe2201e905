"""Scores of frames → calls of chunks and contigs → tables and the viral sequences."""

import os

ONE_BLAS_THREAD = {
    f"{name}_THREADS": "1" for name in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "BLIS_NUM", "VECLIB_MAXIMUM")
}
"""Environment of a process in which NumPy's products use one thread."""


def one_blas_thread() -> None:
    """Make NumPy's products use one thread in this process, if NumPy isn't imported yet.

    Scores differ in their last digit with the number of threads, and the processes of ``predict`` are as many as there
    are threads to use.
    """
    os.environ.update(ONE_BLAS_THREAD)
