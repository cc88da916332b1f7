"""Run docs/tour.ipynb as it stands: `python docs/tour.py [OUTPUT]`; by default it keeps what its cells show.

The kernel works in a temporary folder, so what the cells write leaves nothing behind.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).with_name("tour.ipynb")


def executed(folder: str) -> nbformat.NotebookNode:
    """The notebook with what its cells show.

    Args:
        folder: where the kernel works.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(TOUR, as_version=4)
    # The same on every machine: no start-up files of the user's, no remark about what a notebook server lacks.
    os.environ |= {"IPYTHONDIR": folder, "PYTHONWARNINGS": "ignore:IProgress not found"}
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False).execute(cwd=folder)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        nbformat.write(executed(folder), sys.argv[1] if len(sys.argv) > 1 else TOUR)
