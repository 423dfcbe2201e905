"""VirNucPro: which of these sequences are viral? A Snakemake workflow and the library under it."""

__version__ = "0.1.0"
