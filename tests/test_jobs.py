"""The configurations and the script that are shipped."""

import os
import signal
import subprocess
import time

import pytest

from camrobust.bench.chaos.processes import kill, title
from camrobust.contract.config_file import load_config
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import variants
from tests.runs import ROOT


def test_every_configuration_that_is_shipped_is_valid():
    shipped = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
    assert {path.stem for path in shipped} >= {"first", "paper", "spot"}
    for path in shipped:
        config = load_config(path)
        assert variants(config.perturbations)
        assert all(name in CAMS for name in config.cams)


def test_the_config_of_the_scale_page_is_what_it_says():
    config = load_config(ROOT / "jobs" / "configs" / "imagenet-val.yaml")
    assert (len(variants(config.perturbations)), len(config.cams), len(config.models)) == (95, 10, 5)


@pytest.fixture
def submitting(tmp_path):
    """jobs/shards.sh with a `ray` that writes down what it is given, and fails for one shard."""
    tool = tmp_path / "bin" / "ray"
    tool.parent.mkdir()
    tool.write_text(f"""#!/bin/sh
echo "$@" >> "{tmp_path}/calls"
case "$*" in *" --shard $FAILING"*) exit 1;; *"$STAYING"*) echo $$ >> "{tmp_path}/staying"; exec sleep 600;; esac
""")
    tool.chmod(0o755)

    def variables(failing="none", addresses=None, staying="none"):
        given = {} if addresses is None else {"RAY_API_SERVER_ADDRESS": addresses}
        kept = {name: value for name, value in os.environ.items() if name != "RAY_API_SERVER_ADDRESS"}
        return {**kept, **given, "PATH": f"{tool.parent}:{os.environ['PATH']}", "FAILING": failing, "STAYING": staying}

    def submit(*arguments, **how):
        command = [ROOT / "jobs" / "shards.sh", *arguments]
        (tmp_path / "calls").write_text("")
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables(**how), timeout=60)
        return done.returncode, done.stderr, (tmp_path / "calls").read_text().splitlines()

    submit.variables = variables
    return submit


def test_shards_are_submitted_one_by_one_and_pooled_at_the_end(submitting):
    def job(address, *words):
        return f"job submit --address {address} --working-dir . -- python jobs/{' '.join(words)}"

    here = "http://127.0.0.1:8265"
    code, _, calls = submitting("3", "run.yaml", "s3://b/out", "--set", "seed=1")
    assert code == 0
    assert sorted(calls[:-1]) == [
        job(here, "evaluate.py run.yaml --output s3://b/out --shard", f"{number}/3", "--set seed=1")
        for number in (1, 2, 3)
    ]
    assert calls[-1] == job(here, "aggregate.py s3://b/out")
    _, _, calls = submitting("3", "run.yaml", "out", addresses="http://a:1 http://b:1")
    assert sorted(call.split()[3] for call in calls[:-1]) == ["http://a:1", "http://a:1", "http://b:1"]


def test_a_shard_that_fails_is_said_and_nothing_is_pooled(submitting):
    code, said, calls = submitting("3", "run.yaml", "out", failing="2/3")
    assert (code, len(calls)) == (1, 3)
    assert said == ("shards.sh: 1 of 3 jobs failed; see their lines above, and give the same command again to go on\n")
    for wrong in (("3", "run.yaml"), ("0", "run.yaml", "out"), ("three", "run.yaml", "out")):
        code, said, calls = submitting(*wrong)
        assert (code, calls) == (2, [])
        assert said.startswith(
            "shards.sh: wants a number of shards from 1 to 999, a configuration and an output, got: "
        )


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("staying", "waiting"), [("evaluate.py", 3), ("aggregate.py", 1)])
def test_a_signal_to_the_script_ends_all_that_waits_and_says_what_goes_on(
    submitting, tmp_path, number, staying, waiting
):
    process = subprocess.Popen(
        [ROOT / "jobs" / "shards.sh", "3", "run.yaml", "out"], env=submitting.variables(staying=staying), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    noted, limit = tmp_path / "staying", time.monotonic() + 60
    while not noted.exists() or len(noted.read_text().splitlines()) < waiting:
        assert time.monotonic() < limit
        time.sleep(0.05)
    pids = [int(pid) for pid in noted.read_text().split()]
    try:
        os.killpg(process.pid, number)
        # The pipe ends when the last process that holds it has ended.
        _, said = process.communicate(timeout=20)
        assert said == (
            "shards.sh: interrupted; the submitted jobs go on in the cluster (ray job list; ray job stop ends one)\n"
        )
        assert process.returncode == 128 + number
        while any("sleep" in title(pid) for pid in pids):
            assert time.monotonic() < limit
            time.sleep(0.05)
    finally:
        kill(pid for pid in pids if "sleep" in title(pid))
