"""The benchmark of the last step at a size for tests: what it writes, reduces and compares, without a clock."""

import json

from camrobust.bench.scale import rows as volume
from camrobust.results.folder import open_run
from camrobust.results.verify import verify
from camrobust.run.summarise import summaries


def test_what_is_written_is_complete_and_brute_force_agrees(tmp_path, monkeypatch):
    monkeypatch.setattr(volume, "PERTURBATIONS", 2)
    monkeypatch.setattr(volume, "CAMS", 3)
    monkeypatch.setattr(volume, "PER_IMAGE", 5 * 3 * 2 * 5)
    monkeypatch.setattr(volume, "COMMIT_IMAGES", 100)
    run = open_run(str(tmp_path / "run"))
    volume.write_document(run, 150)
    for dataset in range(volume.DATASETS):
        for first in (0, 100):
            volume.write_commit(run.uri, dataset, first, 150)
    assert verify(run).score_rows == 2 * 150 * 150
    remark = volume.aggregate(str(tmp_path), 150)
    assert "by_level 300" in remark
    assert summaries(run)["by_dataset"]["n_images"].to_list() == [150, 150]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["controls"] == ["cam2"]
    found = volume.compare(str(tmp_path), 150)
    assert "22,500 rows" in found
    assert float(found.rpartition(" ")[2]) < 1e-12
    assert "within" in volume.planted(str(tmp_path), 150)
