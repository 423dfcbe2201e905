"""Triton kernels for what lies between an encoder's matrix products. Importing one of them imports Triton.

Each has a plain reference: ``attention.Sdpa`` and ``ops.Ops``.
"""
