"""Ctrl-C and the signals that count as it: acknowledged, saved for, and never torn into what is drawn."""

import io
import os
import pty
import signal
import subprocess
import sys
from threading import Event, Timer, get_ident

import pytest
from rich.console import Console

from observe_r1.run.interrupt import StopRequest
from observe_r1.run.progress import Progress


@pytest.fixture
def handled():
    """Signals as a process has them that was not started to ignore any."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in signals}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("took", [None, 65.0])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_request_to_stop_is_shown_at_once_with_what_comes_next(terminal, took, handled):
    output = io.StringIO()
    with Progress("train", 9, Console(file=output, force_terminal=terminal, width=120)) as view:
        view.about(model="m")
        view.stop.after("this step, then saving")
        if took:
            view.update(1, {"progress": 0.1, "time/step": took})
        signal.raise_signal(signal.SIGTERM)
        assert view.stop.requested
        pace = " (the last step took 1:05)" if took else ""
        said = f"stopping after this step, then saving{pace}; a second Ctrl-C stops at once"
        console = Console(file=io.StringIO(), width=120, record=True)
        console.print(view)
        shown = console.export_text()
        assert all(len(line) == 120 for line in shown.splitlines()) and said in shown
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert terminal or output.getvalue().count(said) == 1


def test_a_signal_that_does_not_wake_the_main_thread_is_not_lost(handled):
    """As when it arrives just before the wait begins: here another thread takes it."""
    given_up = Event()
    patience = Timer(20, given_up.set)
    patience.start()
    with StopRequest(lambda text: None), pytest.raises(KeyboardInterrupt):
        Timer(0.5, lambda: signal.pthread_kill(get_ident(), signal.SIGTERM)).start()
        given_up.wait()
    patience.cancel()
    assert not given_up.is_set()


ON_A_TERMINAL = """
import io, os, signal, sys, termios
from rich.console import Console
from observe_r1.run.progress import Progress

terminal = os.open(sys.argv[1], os.O_RDWR)  # the session's own, since it has none
os.dup2(terminal, 0)

def echoed():  # and output that waits is thrown away
    modes = termios.tcgetattr(terminal)[3] & (termios.ECHOCTL | termios.NOFLSH)
    return {termios.ECHOCTL: True, termios.NOFLSH: False}.get(modes, modes)

def view(live=True):
    return Progress("train", 9, Console(file=io.StringIO(), force_terminal=live, width=80))

def end(how):
    try:
        with view():
            seen = echoed()
            how()
    except (KeyboardInterrupt, ValueError):
        pass
    return seen, echoed()

def fail():
    raise ValueError

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print(end(int), end(fail), *(end(lambda: signal.raise_signal(each)) for each in (signal.SIGINT, signal.SIGTERM)))
with view(live=False):
    print("log", echoed())
interrupted = view()
interrupted._live.start = lambda refresh: signal.raise_signal(signal.SIGINT)
try:
    interrupted.__enter__()
except KeyboardInterrupt:
    print("at the start", echoed())
attributes = termios.tcgetattr(terminal)
attributes[3] = attributes[3] & ~termios.ECHOCTL | termios.NOFLSH
termios.tcsetattr(terminal, termios.TCSANOW, attributes)
print("as it was", end(int))
attributes[3] = attributes[3] & ~termios.NOFLSH | termios.ECHOCTL
termios.tcsetattr(terminal, termios.TCSANOW, attributes)
child = os.fork()
if not child:
    os.setpgid(0, 0)  # in the background, where a change of the terminal would stop it
    with view():
        os._exit(not echoed())
print("background", os.waitpid(child, os.WUNTRACED)[1], flush=True)
os._exit(0)
"""


def test_the_panel_is_not_torn_by_what_the_terminal_does_at_ctrl_c():
    """Whoever ends it and however, the terminal is afterwards as it was before."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, os.ttyname(slave)]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True, check=True
    )
    os.close(master)
    os.close(slave)
    assert done.stdout.splitlines() == [
        " ".join(["(False, True)"] * 4),
        "log True",
        "at the start True",
        "as it was (False, False)",
        "background 0",
    ]


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP])
def test_before_there_is_anything_to_save_a_signal_ends_at_once(which, handled):
    with pytest.raises(KeyboardInterrupt), StopRequest(lambda text: None) as stop:
        signal.raise_signal(which)
    assert not stop.requested and signal.getsignal(which) is signal.SIG_DFL


def test_a_signal_while_nothing_can_be_saved_ends_at_once(handled):
    """A ladder or an evaluation saves batches; it loads a model between them."""
    with StopRequest(lambda text: None) as stop:
        stop.after("this batch")
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(handled):
    """As under `nohup`, and in a script's background."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest(lambda text: None) as stop:
        stop.after("this step")
        signal.raise_signal(signal.SIGHUP)
    assert not stop.requested and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
