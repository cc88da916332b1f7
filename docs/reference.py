"""Build the API reference from the docstrings: `python docs/reference.py FOLDER`; a warning is an error.

pdoc, because Material for MkDocs reaches its end of life in May 2027 and the reference needs no more than modules.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from pkgutil import walk_packages

import pdoc.render

import camrobust

ROOMS = ("core", "measure", "summary")
"""Rooms that others build on."""
ALONE = ("camrobust.contract.config", "camrobust.contract.schema")
"""What is public of the other rooms."""


def modules() -> Iterator[str]:
    """The public modules in pdoc's notation, each by itself: `!` takes back what a package brings along."""
    yield from ("camrobust", r"!camrobust\..+")
    for module in walk_packages(camrobust.__path__, "camrobust."):
        if module.name in ALONE or module.name.split(".")[1] in ROOMS:
            yield module.name
            if module.ispkg:
                yield rf"!{re.escape(module.name)}\..+"


def build(folder: Path) -> None:
    """Write the pages into a folder."""
    for name in camrobust.__all__:
        # pdoc looks for members in the module itself; they are imported on first use.
        setattr(camrobust, name, getattr(camrobust, name))
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"camrobust {camrobust.__version__}")
    pdoc.pdoc(*modules(), output_directory=folder)


if __name__ == "__main__":
    warnings.simplefilter("error")
    build(Path(sys.argv[1]))
