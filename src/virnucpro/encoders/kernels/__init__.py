"""Triton kernels for what lies between an encoder's matrix products. Importing one of them imports Triton.

Each has a plain reference: ``attention.Sdpa`` and the plain stages in ``esm2`` and ``dnabert``.
"""
