"""For the site: pages that live elsewhere in the repository, and links to files that aren't pages."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"config/README.md": "configuration.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File of the repository → page of the site."""

_LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    listed = str(config.nav)
    if more := [file.src_uri for file in files.documentation_pages() if f"'{file.src_uri}'" not in listed]:
        config.nav.append({"More": more})  # a new page has its place without being listed
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are in the repository → links in the site; what isn't a page, its path."""
    elsewhere = {page: source for source, page in PAGES.items()}
    source = elsewhere.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = posixpath.dirname(page.file.src_uri)

    def link(match):
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            return match[0]  # MkDocs will complain
        if path in PAGES or (path.startswith("docs/") and Path(path).suffix):
            inside = PAGES.get(path, path.removeprefix("docs/"))
            return f"[{text}]({posixpath.relpath(inside, here or '.')}{anchor})"
        return f"{text} (`{path}`)" if path not in text else f"`{path}`"

    return _LINK.sub(link, markdown)
