"""The documentation site: ``make docs`` builds it into ``docs/_build/html``; every warning is an error.

The pages of the API reference are generated from the package tree when the site is built: one page for each package
of ``segpipe``, and one for the modules beside them. No page has to be edited when a module moves.
"""

import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGE = ROOT / "segpipe"
sys.path.insert(0, str(ROOT))  # document this checkout, wherever segpipe is installed from

project = "segpipe"
author = "The segpipe developers"
copyright = author
release = metadata.version("segpipe")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
highlight_language = "none"  # of literal blocks in docstrings: tables, mostly
html_theme = "furo"
html_title = f"segpipe {release}"
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = [
    "colon_fence"
]  # directives are written with :::, since tests/commands/test_docs.py reads ``` as code
myst_heading_anchors = 3  # links to headings, as on a repository's pages

# Not nitpicky: the types of other libraries could only be resolved with their inventories, from the network.
autodoc_default_options = {"members": True, "show-inheritance": True, "special-members": "__call__"}
add_module_names = False
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's and Lightning's docstrings are not repeated
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# What NDArray[...] stands for
ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?(typing\.)?Any, \.\.\.\], ~?numpy\.dtype\[([^\[\]]+)\]\]")
ENTRY = re.compile(r"(?P<names>[a-z_]\w*(, [a-z_]\w*)*): (?P<text>.+)")  # "size: height and width of the image."


def modules(folder: Path) -> list[str]:
    """The dotted names of the modules below a folder of the package; ``__main__`` files are commands."""
    paths = (path for path in folder.rglob("*.py") if path.stem != "__main__")
    dotted = (".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths)
    return sorted(name.removesuffix(".__init__") for name in dotted)


def api_page(title: str, names: list[str]) -> str:
    """A page of the API reference, in reStructuredText: a section for each module."""
    lines = [title, "=" * len(title), ""]
    for name in names:
        if name != title:
            lines += [name, "-" * len(name), ""]
        lines += [f".. automodule:: {name}", ""]
    return "\n".join(lines)


def write_api(folder: Path) -> None:
    """Write the pages of the API reference, and remove those of packages that no longer exist."""
    packages = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    inside = {f"segpipe.{package.name}": modules(package) for package in packages}
    beside = [name for name in modules(PACKAGE) if not name.startswith(tuple(f"{package}." for package in inside))]
    pages = {"segpipe": [name for name in beside if name not in inside], **inside}
    texts = {f"{title}.rst": api_page(title, names) for title, names in pages.items()}
    for path in folder.glob("*.rst"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            path.write_text(text, encoding="utf-8")


def list_entries(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Turn the lines of a docstring that say what a name means, ``size: height and width.``, into a list.

    An entry goes on in indented lines, or until a line ends with a full stop.
    """
    result: list[str] = []
    inside = False
    for line in lines:
        entry = ENTRY.fullmatch(line)
        if entry:
            result += ["", f"- **{entry['names']}**: {entry['text']}"]
            inside = True
        elif inside and line and (line.startswith(" ") or not result[-1].endswith(".")):
            result.append(f"  {line.strip()}")
        else:
            result += ["", line] if inside and line else [line]
            inside = False
    lines[:] = result


def name_arrays(
    app: Sphinx, what: str, name: str, found: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Let signatures say ``NDArray[uint8]``, as the code does, and not what that stands for."""
    short = (text and ARRAY.sub(r"~numpy.typing.NDArray[\2]", text) for text in (arguments, returned))
    return next(short), next(short)


def skip_field(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples: the class's docstring says what they are."""
    return True if str(getattr(found, "__doc__", "")).startswith("Alias for field number") else None


def open_reports(app: Sphinx, document: nodes.document) -> None:
    """Let links to the kept reports open them in the browser: MyST makes downloads of files that are no pages."""
    for link in list(document.findall(addnodes.download_reference)):
        if link["reftarget"].endswith(".html"):
            link.replace_self(nodes.reference("", "", *link.children, refuri=link["reftarget"]))


def copy_reports(app: Sphinx, error: Exception | None) -> None:
    """Put the kept reports beside the pages that link to them."""
    if error is None and app.builder.format == "html":
        shutil.copytree(DOCS / "reports", app.outdir / "reports", dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    write_api(DOCS / "api")
    app.connect("autodoc-process-docstring", list_entries, priority=400)  # before Napoleon
    app.connect("autodoc-process-signature", name_arrays)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("doctree-read", open_reports, priority=400)  # before Sphinx collects downloads
    app.connect("build-finished", copy_reports)
