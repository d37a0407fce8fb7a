"""Puts the notebooks of the repository into the site, with the outputs that are committed."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


@event_priority(100)  # before the plugin that renders notebooks looks for them
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add ``notebooks/*.ipynb``, which lie beside the folder of the pages."""
    root = Path(config.docs_dir).parent
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        name = path.relative_to(root).as_posix()
        files.append(File(name, str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links from one notebook to another at the pages made of them."""
    if not page.file.src_uri.startswith("notebooks/"):
        return html
    return re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', html)
