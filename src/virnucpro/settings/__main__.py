"""``python -m virnucpro.settings``: write the files of a clone that state options, anew."""

from virnucpro import installation
from virnucpro.settings.documents import repository_files

for path, text in repository_files(installation.root()).items():
    path.write_text(text, encoding="utf-8")
