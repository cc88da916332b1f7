"""What a path is, and where it ends.

Python before 3.14 raises where one may not look, or where a name is too long; this says no.
"""

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


def folder_and_revision(text: str) -> tuple[str, str]:
    """FOLDER[@REVISION] or NAME[@REVISION] in two parts, the second with its @, which a folder's name may hold, too.

    >>> folder_and_revision("google/vit@v1"), folder_and_revision("google/vit")
    (('google/vit', '@v1'), ('google/vit', ''))
    """
    if is_folder(Path(text).expanduser()):
        return text, ""
    name, at, revision = text.rpartition("@")
    return (name, at + revision) if at else (text, "")
