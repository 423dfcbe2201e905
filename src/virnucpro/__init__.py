"""VirNucPro: which of these sequences are viral? A Snakemake workflow and the library under it."""

__version__ = "0.2.0"
