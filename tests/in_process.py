"""Whole runs in the process of the test: without Ray, or through a session of Ray that is open already.

A run that starts Ray takes 25 s of CPU: twenty processes, five of which import torch. So only tests about processes,
nodes and what passes between them pay for it. `tests/run/test_run.py` holds a run through Ray against one without it:
their rows are equal to the last bit.
"""

from contextlib import contextmanager, nullcontext
from unittest.mock import patch

from camrobust.contract.config import RunConfig
from camrobust.contract.config_file import load_config
from camrobust.interface.cli import main
from camrobust.run import pipeline, session, workflow
from camrobust.run.stages.batches import pending_batch
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb


def measure(plan, folder, pending, address, verbose, lease, show):
    """In the place of `workflow._measure`: one commit for each image, and no ledger, as nothing dies."""
    config, kept = plan.config, pipeline.gallery(plan)
    load, commit = Load(config), Commit(folder.uri, lease.number)
    perturb = Perturb(config, plan.parts, "cpu", None, plan.sources)
    explain = Explain(config, plan.parts, kept, plan.weights, "cpu", plan.pass_sizes["cpu"], None, plan.sources,
                      states=plan.states, builders=plan.builders, readouts=plan.readouts, kept=plan.kept)  # fmt: skip
    for image in pending.iter_slices(1):
        commit(explain(perturb(load(pending_batch(image)))))
        lease.check()


@contextmanager
def without_ray():
    """While open, `camrobust run` in this process measures without Ray."""
    with patch.object(workflow, "_measure", measure):
        yield


@contextmanager
def through_open_session():
    """While open, `camrobust run` in this process uses the session that is open, and leaves it open."""
    with patch.object(session, "session", lambda *_, **__: nullcontext()):
        yield


def run(config, **options):
    """The outcome of a run without Ray, as `workflow.run` gives it; the configuration may be the path of its file."""
    with without_ray():
        return workflow.run(config if isinstance(config, RunConfig) else load_config(str(config)), **options)


def camrobust(capsys, *arguments, by=without_ray):
    """The command line in this process: its exit code, and what it printed and said."""
    capsys.readouterr()
    with by():
        code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()
