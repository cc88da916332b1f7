"""Who hears that a call to a store is about to be made."""

from camrobust.contract.config_parts import ClusterConfig
from camrobust.io.retries import OBJECT_TIMEOUT_S, insist, patient


def test_those_who_watch_hear_of_every_call_before_it_is_made():
    heard = []
    with patient(alive=lambda: heard.append("alive")):
        insist(lambda: heard.append("call"), "s3://bucket")
    assert heard == ["alive", "call"]


def test_one_call_that_is_never_answered_does_not_use_up_an_image_s_time():
    assert ClusterConfig().image_timeout_s / 2 >= OBJECT_TIMEOUT_S
