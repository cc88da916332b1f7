"""Score files get dataset and model from their two folders; the names of the folders above do not matter."""

import re
from urllib.parse import quote

import pytest

from camrobust.contract.errors import UserError
from camrobust.results.scan import scan_scores
from tests.synthetic import scores


def test_names_come_back_from_folders_as_they_were(tmp_path):
    folder = tmp_path / "scores" / "dataset=a%2Fb%20c" / "model=007"
    folder.mkdir(parents=True)
    scores().drop("dataset", "model").write_parquet(folder / "x.parquet")
    found = scan_scores([str(folder / "x.parquet")]).collect()
    assert (found["dataset"][0], found["model"][0]) == ("a/b c", "007")


@pytest.mark.parametrize(
    "above", ["lr=0.1/one", "date=2026-01-01", "dataset=mine", "model=a/label=3", "run[1]*", "a=b=c#?"]
)
def test_what_stands_above_a_run_is_no_column_of_it(tmp_path, above):
    wanted = scores(models=("1", "m=x/2"), datasets=("2026-01-01", "d"))
    files = []
    for (dataset, model), rows in wanted.partition_by("dataset", "model", as_dict=True, include_key=False).items():
        folder = tmp_path / above / f"scores/dataset={dataset}/model={quote(model, safe='')}"
        folder.mkdir(parents=True)
        rows.write_parquet(folder / "x.parquet")
        files.append(str(folder / "x.parquet"))
    found = scan_scores(files)
    assert found.collect_schema() == wanted.schema
    keys = ["dataset", "model", "image_id", "cam", "severity"]
    assert found.collect().sort(keys).equals(wanted.sort(keys))


def test_a_run_without_score_files_gets_a_sentence():
    sentence = "scores: the run holds no score rows; see its failures, or run it again"
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        scan_scores([])
