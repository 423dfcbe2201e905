"""``python -m virnucpro``."""

from virnucpro.cli import main

main()
