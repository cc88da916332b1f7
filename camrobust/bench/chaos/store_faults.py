"""Faults of the object store: it fails, is out of reach of a node, or no longer takes the credentials."""

import threading
from collections.abc import Callable, Mapping

from camrobust.bench.chaos.node_faults import OUTAGE_S
from camrobust.bench.chaos.proxy import Faults
from camrobust.bench.chaos.trial import Injection, Missed, Trial
from camrobust.contract.errors import RunFailed


def _faults(trial: Trial) -> Faults:
    if trial.faults is None:
        raise RunFailed("chaos: this trial has no store that can fail; set AWS_ENDPOINT_URL")
    return trial.faults


def _fail(trial: Trial, shares: Mapping[str, float], words: str) -> Injection:
    """From now on requests fail; until another attempt, or until something ends it."""
    faults = _faults(trial)
    before = faults.struck.total()
    faults.shares = shares
    trial.endings.append(faults.heal)
    return Injection(words, lambda: faults.struck.total() > before)


def bad_store(trial: Trial) -> Injection:
    """From now on the store refuses some requests, answers some late, breaks off some answers and loses others."""
    shares = {"refuse": 0.1, "slow": 0.05, "cut": 0.05, "deaf": 0.05}
    return _fail(trial, shares, "store: 503, slow, cut, lost answers")


def dead_store(trial: Trial) -> Injection:
    """The store refuses every request, for longer than any client retries."""
    return _fail(trial, {"refuse": 1.0}, "store: refuses everything")


def outage(trial: Trial) -> Injection:
    """The store refuses every request for ten minutes of the trial's clock."""
    injection = _fail(trial, {"refuse": 1.0}, "store: 10 minutes of 503")
    _later(trial, _faults(trial).heal)
    return injection


def cut_off(trial: Trial) -> Injection:
    """A node cannot reach the store for ten minutes of the trial's clock; all others can."""
    links = [node.link for node in trial.cluster.workers if node.link is not None]
    if not links:
        raise Missed("node cut off from the store (none has a link of its own)")
    link = trial.dice.choice(links)
    before, link.cut = link.dropped, True

    def mend() -> None:
        link.cut = False

    trial.endings.append(mend)
    _later(trial, mend)
    return Injection("node cut off from the store", lambda: link.dropped > before)


def expire(trial: Trial) -> Injection:
    """New credentials are written into the file of the credentials; from then on the store refuses the old ones."""
    keys = _faults(trial).keys
    if keys is None:
        raise RunFailed("chaos: the store of this trial knows no credentials that expire")
    before = keys.refused
    keys.renew()
    return Injection("credentials expired", lambda: keys.refused > before)


def _later(trial: Trial, act: Callable[[], None]) -> None:
    """Do something when ten minutes have passed on the trial's clock, unless the trial is over before."""
    timer = threading.Timer(OUTAGE_S / trial.clock, act)
    timer.daemon = True
    timer.start()
    trial.endings.append(timer.cancel)
