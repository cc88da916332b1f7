"""How a run was made and how to make it again; secrets are hidden.

The lines are there to be pasted into a shell, and run.json may come from a stranger: nothing in it adds a line, an
option or a package.
"""

import re
from collections.abc import Mapping

import yaml

from camrobust.contract.defaults import PACKAGES
from camrobust.contract.quoting import shell_word
from camrobust.contract.run_documents import TimesPart
from camrobust.contract.run_record import CombinedRecord, DescribedRecord, RunRecord
from camrobust.contract.secrecy import masked

RELEASE = re.compile(r"\d[\w.]*", re.ASCII)
"""How a version begins; torch's `+cpu` behind it is on no index."""


def configuration(run: DescribedRecord) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(masked(run.config.plain), sort_keys=False, allow_unicode=True)


def commands(run: DescribedRecord, saved: str | None = None) -> list[str]:
    """Shell lines that measure the run again.

    Args:
        run: run.json or combined.json.
        saved: path of its run.yaml on this machine; None where there is none, and the lines write it.
    """
    if isinstance(run, CombinedRecord):
        return [f"camrobust aggregate {' '.join(map(shell_word, masked(run.combined)))} --output again"]
    own = [f"# Python {_release(run.versions, 'python')}", f"pip install {' '.join(_pins(run.versions))}"]
    # Not `pip install`: the name of a private package may be a stranger's on the public index.
    plugins = [
        f"# install the plugin {module} yourself: package {plugin.package}, version {plugin.version}"
        for module, plugin in (run.plugins.items() if isinstance(run, RunRecord) else ())
    ]
    if not isinstance(run, RunRecord):
        # Measured by `camrobust.evaluate`: there is no configuration.
        cams, names = masked(run.cams), masked(list(dict.fromkeys(variant.perturbation for variant in run.variants)))
        return [*own, f"# camrobust.evaluate(model, images, cams={cams}, perturbations={names} at the "
                f"strengths above, seed={run.config.seed})"]  # fmt: skip
    written = [] if saved else _here_document(configuration(run))
    path = shell_word(saved or "run.yaml")
    return [*own, *plugins, *written, f"camrobust run {path} --output again", "camrobust verify again"]


def _release(versions: Mapping[str, str], name: str) -> str:
    """The version of a package; empty where none is told."""
    found = RELEASE.match(versions.get(name, ""))
    return found[0] if found else ""


def _pins(versions: Mapping[str, str]) -> list[str]:
    """The packages on which numbers depend, each at its version, camrobust first."""
    known = [(name, _release(versions, name)) for name in PACKAGES if name == "camrobust" or name in versions]
    return [f"{name}=={release}" if release else name for name, release in known]


def _here_document(text: str) -> list[str]:
    """Lines that write run.yaml, whatever is in it."""
    end, lines = "END", text.splitlines()
    while end in lines:
        end += "_"
    return [f"cat > run.yaml <<'{end}'", *lines, end]


def stage_times(times: TimesPart) -> list[str]:
    """One line per step and stage: how long it took."""
    steps = [f"{name}: {seconds:,.1f} s" for name, seconds in times.seconds.items()]
    stages = [
        f"{name}: {stage.images:,.0f} images, {stage.busy_s:,.1f} s of work" for name, stage in times.stages.items()
    ]
    return steps + stages
