"""Paths as users write them: home folders, patterns, names that can't be, files that aren't there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from virnucpro.errors import InputError
from virnucpro.paths import check_file, files_of, user_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "ho[m]e"))
    (tmp_path / "ho[m]e").mkdir()
    return tmp_path


def test_home_folders_are_put_in_where_there_is_such_a_user(here, monkeypatch):
    assert user_path("~/a.fa") == here / "ho[m]e" / "a.fa"
    assert user_path("~nosuchuser/a.fa", "sheets") == Path("sheets/~nosuchuser/a.fa")
    assert user_path("~a.fa") == Path("~a.fa")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert user_path("~/a.fa") == Path("~/a.fa")


def test_only_what_the_user_wrote_is_a_pattern(here):
    for name in ("run[1]/a.fa", "run[1]/b.fa", "run[1]/*.fa", "run[1]/c d[2].fa", "ho[m]e/h.fa", "~x1.fa"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    run = here / "run[1]"
    assert files_of("[ab].fa", run) == [run / "a.fa", run / "b.fa"]
    assert files_of("[ab].fa", "run[1]") == [Path("run[1]/a.fa"), Path("run[1]/b.fa")]
    assert files_of("*.fa", run) == [run / "*.fa"], "a file that is called so"
    assert files_of("c d[2].fa", run) == [run / "c d[2].fa"]
    assert files_of("~/*.fa") == [here / "ho[m]e" / "h.fa"]
    assert files_of("~x*.fa") == [Path("~x1.fa")]
    assert files_of(f"{here}/run[[]1]/[ab].fa") == [run / "a.fa", run / "b.fa"]
    assert files_of("run[[]*/../**/h.fa") == [Path("ho[m]e/h.fa")]
    assert files_of("none.fa") == [Path("none.fa")]
    with pytest.raises(InputError, match=r"x\*\.fa: no file matches"):
        files_of("x*.fa")


def test_a_pattern_leaves_out_folders_but_nothing_else(here):
    (here / "a.fa").mkdir()
    (here / "b.fa").touch()
    (here / "c.fa").symlink_to("gone")
    assert files_of("*.fa") == [Path("b.fa"), Path("c.fa")]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "an empty path"),
        ("https://x.org/a.fa", "^https://x.org/a.fa: is an address, not a path"),
        ("s3://reads/*.fa", "is an address, not a path"),
        ("br{a}ce/a.fa", r"br\{a\}ce/a.fa: has \{ or \}.*Rename it, or give a link"),
        ("a\nb.fa", r"'a\\nb.fa': the name has a line break, tab"),
        ("a\tb.fa", "line break, tab"),
        ("a\0b.fa", "control character"),
        (os.fsdecode(b"b\xe9.fa"), r"b\\xe9\.fa: the name isn't UTF-8"),
        ("a" * 256 + ".fa", "too long: a name can have 255 bytes"),
        ("é" * 128, "too long"),
        ("a/" * 3000, "a path 4,095"),
    ],
)
def test_names_that_a_run_can_not_use_are_refused_in_words(name, says):
    with pytest.raises(InputError, match=says):
        user_path(name)


def test_also_the_names_that_a_pattern_finds(here):
    (here / "a{1}.fa").touch()
    with pytest.raises(InputError, match=r"a\{1\}\.fa: has \{ or \}"):
        files_of("*.fa")


def test_why_a_file_can_not_be_read(here):
    (here / "dangling.fa").symlink_to("nowhere")
    (here / "circle.fa").symlink_to("circle.fa")
    (here / "folder").mkdir()
    (here / "contigs.fa").touch()
    os.mkfifo(here / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.close()
    check_file(Path("contigs.fa"))
    for name, says in {
        "dangling.fa": "is a link to nowhere, which doesn't exist",
        "circle.fa": "Too many levels of symbolic links",
        "folder": r"is a folder\. Give its files, with a pattern such as 'folder/\*\.fa'\. It is listed in sheet\.tsv",
        "pipe": "is a pipe, and a run reads its input more than once.*'-'",
        "socket": "is a socket, not a file",
        "/dev/null": "is a device, not a file",
        "contgis.fa": "no such file; did you mean 'contigs.fa'",
        "contigs.fa/x": r"no such file\.",
        "con\u00a0tigs.fa": r"no such file \(it has U\+00A0 NO-BREAK SPACE\); did you mean 'contigs.fa'",
        "a" * 300: "File name too long",
        r"C:\data\contigs.fa": r"no such file \(folders are separated by / here, not by \\\)",
    }.items():
        with pytest.raises(InputError, match=says):
            check_file(Path(name), "sheet.tsv")
