"""Untrusted text is harmless on a terminal and in a spreadsheet; secrets are hidden; no code is imported."""

import json
import re
import sys
from importlib import import_module

import polars as pl
import pytest

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import harmless, harmless_json, short, shown
from camrobust.contract.secrecy import HIDDEN, masked, refuse_address, sentence
from camrobust.interface import cli
from camrobust.interface.cli import main
from camrobust.interface.terminal import Meter, say, show_table
from camrobust.io.s3_client import forget_clients
from camrobust.results.progress import Progress, Stage
from camrobust.run.summarise import aggregate
from camrobust.summary.spreadsheet import csv_of
from tests.documents import change_document
from tests.results.test_reduce import write_run
from tests.test_rooms import PACKAGE

NASTY = "a\x1b[2J\x9b31m\u202egnp\u2066.exe\nb\r\x07[bold]\x00\u200b"
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")


def test_control_characters_are_written_as_escapes():
    assert harmless(NASTY) == ("a\\x1b[2J\\x9b31m\\u202egnp\\u2066.exe\\nb\\r\\x07[bold]\\x00\\u200b")
    whole = "Ünïcode 日本 العربية → ✓ 👩‍🔬"
    assert harmless(whole) == whole
    assert harmless("\ud800 \U000e0041") == "\\ud800 \\U000e0041"


def test_json_without_control_characters_holds_the_same():
    document = {NASTY: [NASTY, 1.5, None, {"é": "日本\U000e0041"}]}
    written = harmless_json(document)
    assert not STEERS.search(written)
    assert "日本" in written
    assert json.loads(written) == document


def test_lines_tables_and_progress_are_harmless(capsys):
    say(NASTY)
    show_table(f"t {NASTY}", [NASTY, "n"], [(NASTY, 1), ("plain", 2)])
    with Meter() as meter:
        meter(Progress(1, 2, 0, 3.0, {NASTY: Stage(1.0, 2.0, 1)}))
    cli._error(f"x {NASTY}")
    printed = capsys.readouterr()
    assert not STEERS.search(printed.out + printed.err)
    # Nothing is read as markup, and one line stays one line.
    assert "[bold]" in printed.out
    assert printed.err.count("\n") == 3


def test_a_bar_on_a_terminal_is_harmless(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    with Meter() as meter:
        meter(Progress(1, 2, 0, 3.0, {NASTY: Stage(1.0, 2.0, 1)}))
        task = meter.bar.tasks[0]
    assert not STEERS.search(task.fields["line"])
    assert "\\[bold]" in task.fields["line"]


def test_commands_print_image_ids_without_control_characters(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    manifest = run.manifest()
    more = manifest[:1].with_columns(image_id=pl.lit(NASTY))
    run.write_table("manifest.parquet", pl.concat([manifest, more]))
    planned = run.run().planned
    rows = planned.rows // planned.images * (planned.images + 1)
    change_document(run, planned=planned.model_dump() | {"images": planned.images + 1, "rows": rows})
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert main(["verify", str(tmp_path / "run"), "--json"]) == 1
    printed = capsys.readouterr()
    assert "a\\x1b[2J" in printed.err
    assert not STEERS.search(printed.out + printed.err)
    assert json.loads(printed.out)["examples"] == [f"d / {NASTY} / m"]


CELLS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "a;=1",
    'a","=1',
    "plain",
    "é",
    None,
    "",
]


def test_a_spreadsheet_reads_text_as_text():
    table = pl.DataFrame({"name": CELLS, "value": [-1.5] * len(CELLS), "count": [-7] * len(CELLS)})
    written = csv_of(table)
    found = pl.read_csv(written, schema_overrides={"name": pl.String})
    guarded = ["'" + one if one and one[0] in "=+-@\t\n＝" else one and one.replace("\r", "\ufffd") for one in CELLS]
    assert [one or None for one in found["name"]] == [one or None for one in guarded]
    assert found["value"].to_list() == [-1.5] * len(CELLS)
    assert found["count"].to_list() == [-7] * len(CELLS)
    shown = csv_of(pl.DataFrame({"name": ["a\x1b[2Jb\x9b\x00", "c\td\re\u202ef"]})).decode()
    assert shown == '"name"\n"a\ufffd[2Jb\ufffd\ufffd"\n"c\td\ufffde\ufffdf"\n'
    # Text with a semicolon is quoted, so that it starts no new cell where semicolons separate cells.
    assert b'"a;=1",-1.5,-7\n' in written


def test_every_csv_file_is_guarded(tmp_path):
    run = write_run(tmp_path / "run", models=("=1+1",))
    tables = aggregate(run)
    for name in tables:
        text = (tmp_path / "run" / "summary" / f"{name}.csv").read_text()
        assert not re.search(r'(^|,)"?=', text, re.MULTILINE), name
    by_cam = pl.read_csv(tmp_path / "run" / "summary" / "by_cam.csv")
    assert set(by_cam["model"]) == {"'=1+1"}
    # Parquet stays exact.
    assert set(pl.read_parquet(tmp_path / "run" / "summary" / "by_cam.parquet")["model"]) == {"=1+1"}
    assert main(["report", str(tmp_path / "run")]) == 0
    drawn = sorted((tmp_path / "run" / "report" / "figures").glob("*.csv"))
    assert "leaderboard.csv" in {one.name for one in drawn}
    for one in drawn:
        assert not re.search(r'(^|,)"?=', one.read_text(), re.MULTILINE), one.name


def test_no_other_place_writes_csv():
    calls = {
        path.relative_to(PACKAGE).as_posix(): re.findall(r"([\w.]+)\.write_csv\(", path.read_text())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: found for name, found in calls.items() if found} == {
        "summary/spreadsheet.py": ["guarded"], "run/summarise.py": ["folder"]
    }  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "az://c/x?sv=1&sig=S3CRET", "az://c/x?SIG=S3CRET", "s3://b/a?X-Amz-Security-Token=S3CRET",
        "s3://b/a?x-amz-signature=S3CRET", "s3://b/a?token=S3CRET", "s3://b/a?AWSAccessKeyId=S3CRET",
        "s3://b/a?x=1&Signature=S3CRET", "https://h/a?%73ig=S3CRET", "gs://b/a?X-Goog-Signature=S3CRET",
        "gs://b/a?access_token=S3CRET#x", "s3://user:S3CRET@b/a", "https://user:S3CRET@host:80/a", "s3://u:S3CRET@b",
        "file://x/a?password=S3CRET", "s3://b/a?X-Amz-Credential=S3CRET", "s3://b/a?api_key=S3CRET",
    ],
)  # fmt: skip
def test_an_address_that_holds_a_secret_is_refused(address):
    with pytest.raises(UserError) as caught:
        refuse_address(address)
    assert str(caught.value) == (
        f"store: the {address.partition('://')[0]}:// address must not hold a secret, as addresses are written to "
        "results and logs; remove it and let credentials come from the environment (docs/running.md)"
    )


@pytest.mark.parametrize(
    "address",
    [
        "s3://b/sig=3/a.png", "s3://b/token=1/Signature=2.png", "s3://b/a?x=1.png", "s3://b/what?.png",
        "s3://b/u:p@x/a.png", "abfs://container@account.dfs.core.windows.net/x", "a/b?sig=1.png", "/x/sig=2/a.png",
        "s3://b/a&sig=3.png", "s3://b/a#sig=3", "az://c/x?design=1&monkey=2", "file:///x/a=b",
    ],
)  # fmt: skip
def test_an_address_that_only_looks_similar_is_accepted(address):
    refuse_address(address)


def test_a_manifest_is_searched_for_secrets(tmp_path):
    from camrobust.io.manifest import list_images

    (tmp_path / "m.csv").write_text("uri,image_id\ns3://b/sig=1/a.png,a\ns3://b/c.png?X-Amz-Security-Token=S3CRET,b\n")
    with pytest.raises(UserError, match="the s3:// address must not hold a secret") as caught:
        list_images("d", str(tmp_path / "m.csv"))
    assert "S3CRET" not in str(caught.value)
    (tmp_path / "m.csv").write_text("uri,image_id\ns3://b/sig=1/a.png,a\n")
    assert list_images("d", str(tmp_path / "m.csv"))["uri"].to_list() == ["s3://b/sig=1/a.png"]


def test_messages_hide_secrets_quoted_by_libraries(capsys):
    endpoint = "http://me:S3CRET@host:9000/x?tenant=S3CRET"
    assert (
        sentence(f'Could not connect to "{endpoint}": no')
        == f'Could not connect to "http://{HIDDEN}@host:9000/x?{HIDDEN}": no'
    )
    say(f"s3: {endpoint}")
    cli._error(f"s3: {endpoint} and AKIA{'Q' * 16} and hf_{'a' * 30}")
    printed = capsys.readouterr().err
    assert "S3CRET" not in printed
    assert "QQQQ" not in printed
    assert "aaaa" not in printed
    assert masked({"b": {"clientSecret": "x", "n_tokens": 0}, "c": ["s3://b/a?sig=1&v=2"]}) == {
        "b": {"clientSecret": HIDDEN, "n_tokens": 0}, "c": [f"s3://b/a?sig={HIDDEN}&v=2"]
    }  # fmt: skip


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1/?tenant=S3CRET", "http://me:S3CRET@127.0.0.1:1", "S3CRET"])
def test_an_endpoint_is_not_quoted(endpoint, monkeypatch, capfd):
    settings = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "S3CRET", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in {**settings, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    for command in ("verify", "status", "report"):
        forget_clients()
        assert main([command, "s3://bucket/run", "--verbose"]) in (1, 2)
        printed = capfd.readouterr()
        assert "S3CRET" not in printed.out + printed.err
        assert printed.err.startswith("camrobust: s3: ")
        assert len(printed.err.splitlines()) == 1
    forget_clients()


def test_long_values_are_shortened():
    assert shown("x" * 1000).startswith("'xxx")
    assert len(shown("x" * 1000)) <= 120
    assert short("x" * 1000) == "x" * 60 + "…" + "x" * 59
    shared = ["a"]
    for _ in range(64):
        shared = [shared, shared]
    assert len(shown(shared)) <= 120
    assert shown(7) == "7"
    assert short("plain") == "plain"


MODULE = """
from pathlib import Path
Path({marker!r}).write_text("imported")
def build():
    raise SystemExit("built")
"""


@pytest.mark.parametrize(
    "command",
    [["verify", "RUN"], ["aggregate", "RUN"], ["report", "RUN"], ["status", "RUN"], ["compare", "RUN", "RUN"],
     ["aggregate", "RUN", "OTHER", "--output", "BOTH"]],
)  # fmt: skip
def test_commands_that_read_a_run_never_import_what_it_names(command, tmp_path, monkeypatch):
    builder = {"builder": "planted:build", "arguments": {"module": "planted"}}
    for name, model in (("run", "m"), ("other", "n")):
        run = write_run(tmp_path / name, models=(model,), changes={"models": [{"name": model, **builder}]})
        aggregate(run)
    marker = tmp_path / "imported"
    (tmp_path / "planted.py").write_text(MODULE.format(marker=str(marker)))
    places = {"RUN": str(tmp_path / "run"), "OTHER": str(tmp_path / "other"), "BOTH": str(tmp_path / "both")}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([places.get(argument, argument) for argument in command]) == 0
    assert not marker.exists()
    # Anyone who imported the module would have found it.
    import_module("planted")
    del sys.modules["planted"]
    assert marker.exists()


REPORT = "; if the given files are intact, this is a bug in camrobust: please report it with the output of --verbose"
FULL = "a disk is full (No space left on device); free some space and run the same command again"
MEMORY = "this machine has too little memory; measure less at once, or check that the given files are intact"
DEPTH = "something is nested too deep to be read; check that the given files are intact"
ERRORS = [
    (ValueError("x\x1b[2J\nsecond line"), f"stopped by ValueError: x\\x1b[2J{REPORT}"),
    (ValueError(), f"stopped by ValueError: ValueError{REPORT}"),
    (KeyError("numbers"), f"stopped by KeyError: 'numbers'{REPORT}"),
    (OSError(5, "Input/output error"), f"stopped by OSError: [Errno 5] Input/output error{REPORT}"),
    (OSError(28, "No space left on device"), FULL),
    (BaseException("a panic of Rust"), f"stopped by BaseException: a panic of Rust{REPORT}"),
    (MemoryError(), MEMORY),
    (RecursionError("deep"), DEPTH),
]


@pytest.mark.parametrize(("error", "said"), ERRORS)
def test_an_unforeseen_error_is_one_sentence(error, said, monkeypatch, capsys, tmp_path):
    def fail(_uri):
        raise error

    monkeypatch.setattr("camrobust.results.shards.open_results", fail)
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"camrobust: {said}\n"
    assert main(["verify", str(tmp_path), "--verbose"]) == 1
    traced = capsys.readouterr().err
    assert traced.startswith("Traceback (most recent call last):\n")
    assert traced.endswith(f"\ncamrobust: {said}\n")
    assert not STEERS.search(traced)


def test_a_long_message_is_cut(monkeypatch, capsys, tmp_path):
    def fail(_uri):
        raise UserError("x" * 10**7)

    monkeypatch.setattr("camrobust.results.shards.open_results", fail)
    assert main(["verify", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err) < 5000


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(5)])
def test_interrupt_and_exit_still_end_the_program(error, monkeypatch, capsys, tmp_path):
    def fail(_uri):
        raise error

    monkeypatch.setattr("camrobust.results.shards.open_results", fail)
    if isinstance(error, SystemExit):
        with pytest.raises(SystemExit, match="5"):
            main(["verify", str(tmp_path)])
        return
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "camrobust: interrupted; run the same command again to resume\n"


def commands(parser):
    """The parser of every command and benchmark by its name."""
    below = next((one.choices for one in parser._actions if isinstance(one.choices, dict)), {})
    for name, one in below.items():
        yield from commands(one) if one._subparsers else ((name, one),)


def test_every_command_takes_verbose():
    found = dict(commands(cli._parser()))
    assert {"run", "verify", "chaos", "fuzz"} <= found.keys()
    assert [name for name, one in found.items() if "--verbose" not in one._option_string_actions] == []


def test_a_secret_in_an_old_run_is_hidden(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    config = run.run().config.plain
    config["models"][0]["arguments"] = {"hf_token": "S3CRET"}
    change_document(run, config=config)
    aggregate(run)
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    assert "S3CRET" not in (tmp_path / "run" / "report" / "index.html").read_text()
    assert "S3CRET" not in capsys.readouterr().out
