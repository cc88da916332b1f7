"""What a path is. Python before 3.14 raises where one may not look, or where a name is too long; this says no."""

from pathlib import Path


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder that can be looked at."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def is_file(path: str | Path) -> bool:
    """Whether a path is a regular file that can be looked at."""
    try:
        return Path(path).is_file()
    except OSError:
        return False
