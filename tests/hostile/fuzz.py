"""Runs five commands on spoiled run folders, in one process: `python -m tests.hostile.fuzz COUNT [SEED]`."""

import json
import os
import pickle
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from stat import S_ISREG

import vl_convert

from camrobust.interface.cli import main
from camrobust.report import page
from tests.hostile.folders import write
from tests.hostile.mutations import bomb, mutate

UNFORESEEN = (
    "stopped by ",
    "this machine has too little memory",
    "nested too deep to be read",
    "Traceback",
    "panicked",
)
"""Words of messages for unforeseen errors, which must not occur here."""
COMMANDS = (("verify", "RUN"), ("status", "RUN"), ("report", "RUN"), ("compare", "WHOLE", "RUN"), ("aggregate", "RUN"))
DRAWING = {
    vl_convert: ("vegalite_to_svg", "vegalite_to_png"),
    page: ("severity_curves", "heat_map", "critical_differences", "characteristics_chart"),
}
"""Functions that take a hundred times as long as all others. Their results are remembered by their arguments."""
OURS = ("summary", "report")
"""Folders that `aggregate` and `report` write."""


class Output:
    """Captures what a command prints, including its Rust libraries."""

    def __init__(self, folder):
        self.files = [(folder / name).open("w+b", buffering=0) for name in ("out", "err")]

    def __enter__(self):
        sys.stdout.flush()
        sys.stderr.flush()
        self.kept = [os.dup(number) for number in (1, 2)]
        for number, file in zip((1, 2), self.files, strict=True):
            file.seek(0)
            file.truncate()
            os.dup2(file.fileno(), number)
        return self

    def __exit__(self, *_error):
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in zip((1, 2), self.kept, strict=True):
            os.dup2(kept, number)
            os.close(kept)

    def error(self):
        self.files[1].seek(0)
        return self.files[1].read().decode(errors="replace")


def contents(folder):
    """Every path below a folder, with its type and the bytes of small files."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            status = path.lstat()
            if path.is_symlink():
                held = path.readlink()
            elif S_ISREG(status.st_mode):
                held = path.read_bytes() if status.st_size <= 2**20 else status.st_size
            else:
                held = None
            found[str(path)] = (status.st_mode, held)
    return found


def try_one(place, base, seed, output, bombs):
    """Spoil a copy and run every command on it; returns the change, the exit codes and every fault."""
    run = place / "run"
    shutil.copytree(base, run)
    (place / "outside").mkdir()
    (place / "outside" / "secret.txt").write_text("secret")
    told = mutate(run, seed, bombs)
    before = contents(place)
    codes, wrong = [], []
    for command in COMMANDS:
        given = [{"RUN": str(run), "WHOLE": str(base)}.get(one, one) for one in command]
        if seed % 2:
            given = [given[0], *reversed(given[1:]), "--json"]
        with output:
            try:
                code = main(given)
            except BaseException:  # noqa: BLE001
                code = traceback.format_exc()
        error = output.error()
        codes.append(f"{command[0]} {code}")
        said = next((one for one in UNFORESEEN if one in error), None)
        if code not in (0, 1, 2) or said or (code == 2 and not one_line(error)):
            with output:
                main([*given, "--verbose"])
            wrong.append(f"{command[0]}: {code} {output.error()[-1500:]}")
    changed = [path for path, found in contents(place).items() if before.get(path) != found]
    gone = [path for path in before if not os.path.lexists(path)]
    ours = tuple(f"{run}/{name}" for name in OURS)
    wrong += [f"changed {path!r}" for path in changed if not path.startswith(ours)]
    wrong += [f"deleted {path!r}" for path in gone]
    return told, codes, wrong


def one_line(error):
    """Whether the last line is a short sentence for the user."""
    lines = error.splitlines()
    return bool(lines) and lines[-1].startswith("camrobust: ") and len(lines[-1]) < 4500


def fuzz(count, seed=0, first=0):
    """Spoil a number of folders; returns every fault, and how the commands ended."""
    os.environ["CAMROBUST_LEASE_TERM_S"] = "1"
    remember_drawings()
    bombs, known = (lambda *given: known.setdefault(key(given), None) or bomb_of(known, given)), {}
    offenders, codes = [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bases = [root / "old", root / "new"]
        for number, base in enumerate(bases):
            write(base, number=number)
        output = Output(root)
        idle = peak_mib()
        for number in range(first, first + count):
            place = root / "place"
            place.mkdir()
            told, ended, wrong = try_one(place, bases[number // 2 % 2], seed * 1_000_000 + number, output, bombs)
            codes.update(ended)
            if wrong:
                offenders.append({"number": number, "told": told, "wrong": wrong})
            if os.environ.get("FUZZ_VERBOSE"):
                sys.stderr.write(f"{number} {peak_mib()} {told!a} {ended}\n")
            shutil.rmtree(place)
    return {"offenders": offenders, "codes": dict(sorted(codes.items())), "idle_mib": idle, "peak_mib": peak_mib()}


def remember_drawings():
    for module, names in DRAWING.items():
        for name in names:
            setattr(module, name, remembered(getattr(module, name)))


def remembered(draw):
    known = {}

    def again(*given, **named):
        told = pickle.dumps((given, named))
        if told not in known:
            known[told] = draw(*given, **named)
        return known[told]

    return again


def key(given):
    table, name, what = given
    return str(table.schema.remove_metadata()), table.num_rows, name, what


def bomb_of(known, given):
    found = known[key(given)] = known[key(given)] or bomb(*given)
    return found


def peak_mib():
    """Most memory of this process so far; unlike ru_maxrss, which begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:]]
    sys.stdout.write(json.dumps(fuzz(*given), indent=1))
