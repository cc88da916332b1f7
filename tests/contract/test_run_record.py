"""The records of a run folder: what is written is what is read, and what no reader accepts is not written."""

import json

import pytest

from camrobust.contract.errors import UserError
from camrobust.contract.record import FORMAT, content_of, new_record, parse_record
from camrobust.contract.run_documents import DoneRecord, FileRecord, StageRecord
from camrobust.contract.run_record import CombinedRecord, RunRecord
from tests.documents import run_document, run_record

CONFIG = {"z": 1, "seed": 7, "metric": {"rbo_p": 0.9, "average": "micro"}, "a": [1, {"b": None}]}


def test_a_run_is_read_as_it_was_written():
    record = run_record(3, models=("m", "n"), config=CONFIG)
    content = content_of(record, defaults=True, indent=2)
    assert parse_record(content, RunRecord, "run.json") == record
    assert json.loads(content)["format"] == FORMAT
    assert json.loads(content)["config"] == CONFIG


def test_the_configuration_has_typed_settings_and_keeps_the_others_in_order():
    config = run_record(config=CONFIG).config
    assert (config.seed, config.metric.average, config.summary.intervals) == (7, "micro", "delta")
    assert list(config.plain.items()) == list(CONFIG.items())
    assert config.metric.plain == CONFIG["metric"]


def test_old_names_of_settings_are_read_as_todays():
    config = run_record(config={"gallery": 5, "metric": {"intervals": "bootstrap"}}).config
    assert (config.gallery_images, config.summary.intervals) == (5, "bootstrap")
    assert config.plain == {"metric": {}, "gallery_images": 5, "summary": {"intervals": "bootstrap"}}


def test_done_is_read_as_it_was_written():
    file = FileRecord(table="scores", key="scores/x", size_bytes=3, dataset="d", model="m")
    done = DoneRecord(commits=("c",), files=(file,), stages={"load": StageRecord(images=1.5)}, seconds={"measure": 2})
    read = parse_record(content_of(done, defaults=True), DoneRecord, "done")
    assert read == done.model_copy(update={"format": FORMAT})


def test_a_document_that_no_reader_accepts_is_not_made():
    values = {**run_document(1), "models": ["m", "m"], "combined": ["x"]}
    with pytest.raises(UserError, match=r"^run: models must have different names$"):
        new_record(CombinedRecord, **values)
    with pytest.raises(UserError, match=r"^run: planned\.rows must be images × models × variants × cams = 4, got 1$"):
        new_record(RunRecord, **{**run_document(1), "planned": {"images": 4, "rows": 1}})
