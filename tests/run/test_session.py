"""How a session ends."""

import threading

from ray.data._internal.execution.streaming_executor import StreamingExecutor

from camrobust.run.session import _await_executors


class Slow(StreamingExecutor):
    """A thread that still schedules a stream when its run is over."""

    def __init__(self):
        threading.Thread.__init__(self, daemon=True)
        self.let_go = threading.Event()

    def run(self):
        self.let_go.wait(10)

    def __del__(self):
        pass


def test_a_session_waits_for_ray_data_to_stop_scheduling():
    thread = Slow()
    thread.start()
    threading.Timer(0.2, thread.let_go.set).start()
    _await_executors()
    assert not thread.is_alive()
