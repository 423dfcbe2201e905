"""Paths as users write them: ``~``, patterns, names that a run can't use, and why a file can't be read.

Every option, configuration key and table cell that takes a path comes through here.
"""

from __future__ import annotations

import difflib
import errno
import glob
import os
import re
import stat
import unicodedata
from contextlib import suppress
from pathlib import Path

from virnucpro.errors import InputError, nearest

MAX_NAME = 255
"""Bytes of a file's or folder's name that file systems take."""
MAX_PATH = 4095
"""Bytes of a path that Linux takes."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_RENAME = "Rename it, or give a link to it (ln -s)."


def expand_home(text: str) -> str:
    """``~`` and ``~user`` at the beginning replaced by the home folder; as it is where nobody is called so."""
    return os.path.expanduser(text)


def user_path(text: str, folder: str | Path = "") -> Path:
    """A path that a user wrote; a relative one starts at ``folder``.

    Raises:
        InputError: it is empty, an address such as https://..., or has a name that a run can't use.
    """
    if not text:
        raise InputError("an empty path. Give a name; perhaps a variable isn't set.")
    if _ADDRESS.match(text):
        raise InputError(f"{text}: is an address, not a path of this machine. What is to be read, download first.")
    return _usable(os.path.join(folder, expand_home(text)))


def files_of(text: str, folder: str | Path = "") -> list[Path]:
    """The files, sorted, that a path or a pattern (``*``, ``?``, ``[...]``, ``**``) stands for.

    A path that exists, or has none of these, stands for itself. Only ``text`` can be a pattern: ``folder`` and the
    home folder are what they are called.

    Raises:
        InputError: no file matches the pattern, or a name is one that a run can't use.
    """
    path = user_path(text, folder)
    if not glob.has_magic(text) or os.path.lexists(path):
        return [path]
    first, slash, rest = text.partition("/")
    home = expand_home(first)
    pattern = text if home == first else glob.escape(home) + slash + rest
    names = glob.iglob(pattern, root_dir=folder or None, recursive=True)
    found = {os.path.join(folder, name) for name in names}
    files = sorted(_usable(name) for name in found if not os.path.isdir(name))
    if not files:
        raise InputError(f"{path}: no file matches this pattern. Check the folder and the name's ending.")
    return files


def check_file(path: Path, listed_in: str | Path | None = None) -> None:
    """Raise InputError, with the reason and the table that lists it, if ``path`` isn't a file that can be read twice."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = _absent(path, error)
    else:
        if stat.S_ISREG(mode) and os.access(path, os.R_OK):
            return
        if stat.S_ISDIR(mode):
            reason = f"is a folder. Give its files, with a pattern such as '{path}/*.fa'."
        elif stat.S_ISFIFO(mode):
            reason = (
                "is a pipe, and a run reads its input more than once. Write it to a file, or pipe it into the command "
                "and give '-': ... | virnucpro predict -"
            )
        elif stat.S_ISREG(mode):
            reason = "can't be read (Permission denied)."
        else:
            reason = f"is a {'socket' if stat.S_ISSOCK(mode) else 'device'}, not a file."
    raise InputError(f"{path}: {reason}" + (f" It is listed in {listed_in}." if listed_in else ""))


def _absent(path: Path, error: OSError) -> str:
    """Why there is no such file, in words."""
    if os.path.islink(path) and error.errno == errno.ENOENT:
        return f"is a link to {os.readlink(path)}, which doesn't exist. Correct the link, or copy the file there."
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"can't be read ({error.strerror})."
    siblings: list[str] = []
    with suppress(OSError):
        siblings = os.listdir(path.parent)
    odd = [letter for letter in path.name if letter != " " and unicodedata.category(letter) in ("Zs", "Cf")]
    seen = f" (it has U+{ord(odd[0]):04X} {unicodedata.name(odd[0], '')})" if odd else ""
    if "\\" in path.name:
        seen = " (folders are separated by / here, not by \\)"
    close = difflib.get_close_matches(path.name, siblings, cutoff=0.5)
    return f"no such file{seen}{nearest(path.name, siblings) if close else '.'}"


def _usable(text: str) -> Path:
    """The path in its shortest spelling, or an InputError if Snakemake, a table or the file system can't take it."""
    path = os.path.normpath(text)
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if shown != path:
        raise InputError(f"{shown}: the name isn't UTF-8. {_RENAME}")
    if any(unicodedata.category(letter) == "Cc" for letter in path):
        raise InputError(f"{path!r}: the name has a line break, tab or other control character. {_RENAME}")
    if "{" in path or "}" in path:
        raise InputError(f"{path}: has {{ or }}, where Snakemake takes what is between for a wildcard. {_RENAME}")
    longest = max(map(len, map(os.fsencode, path.split("/"))))
    if longest > MAX_NAME or len(os.fsencode(path)) > MAX_PATH:
        raise InputError(
            f"{path[:100]}...: too long: a name can have {MAX_NAME} bytes, a path {MAX_PATH:,}. Choose a shorter one."
        )
    return Path(path)
