"""The wish to stop, as a signal brings it."""

import os
import select
import signal


class Stop:
    """Set for ever by the first signal.

    A pipe instead of a `threading.Event`: the handler runs in the thread that waits, and an event's lock cannot be
    taken twice by one thread, so a signal at the wrong moment would hang the process for good.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def set(self) -> None:
        """Set it; callable from a signal handler."""
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:  # so many signals came that the pipe is full
            return

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most this long; return whether it is."""
        return bool(select.select([self._reader], [], [], timeout_s)[0])


def stop_on_signals() -> Stop:
    """Return what SIGINT, SIGTERM and SIGHUP set; a hang-up that is ignored (`nohup`) stays ignored."""
    stop = Stop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, lambda *_: stop.set())
    return stop
