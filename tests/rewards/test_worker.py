"""Worker processes: hard limits, faults, restarts, and that none outlives its program."""

import operator
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError

import pytest

from observe_r1.rewards.worker import Worker, WorkerDied, WorkerKilled, WorkerPool


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def wait_until_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


def test_calls_are_computed_in_another_process(worker):
    assert worker.call(operator.add, 2, 3, timeout=60) == 5
    assert worker.call(os.getpid, timeout=60) not in (os.getpid(), os.getppid())


def test_lone_surrogates_and_megabytes_pass_the_pipe(worker):
    text = "\ud800\x00\u202e" * 1_000_000
    assert worker.call(len, text, timeout=60) == len(text)
    assert worker.call(operator.mul, "\udfff", 3, timeout=60) == "\udfff" * 3


@pytest.mark.parametrize("call", [(time.sleep, 600), (operator.pow, 9, 9**9)], ids=["sleeps", "multiplies"])
def test_a_call_over_its_limit_is_killed_and_the_next_one_works(worker, call):
    before = worker.call(os.getpid, timeout=60)
    with pytest.raises(TimeoutError, match=r"no result within 0\.2 s"):
        worker.call(*call, timeout=0.2)
    assert not is_alive(before)
    assert worker.call(os.getpid, timeout=60) != before


def test_a_worker_that_dies_says_so_and_the_next_call_works(worker):
    with pytest.raises(WorkerDied, match="exit code 3 during a call"):
        worker.call(os._exit, 3, timeout=60)
    assert worker.call(operator.add, 2, 3, timeout=60) == 5


def test_what_a_function_raises_comes_back_with_its_traceback(worker):
    with pytest.raises(RuntimeError, match=r"truediv failed in its worker process:\nTraceback[^$]*ZeroDivisionError"):
        worker.call(operator.truediv, 1, 0, timeout=60)
    assert worker.call(operator.add, 2, 3, timeout=60) == 5


DEADLY = """
from pathlib import Path
deaths = Path({deaths!r})
deaths.write_text(deaths.read_text() + ".")
if len(deaths.read_text()) <= {times}:
    import os, signal
    os.kill(os.getpid(), signal.{how})
"""


def dying(tmp_path, how, times):
    """Code that kills its process by `how` in its first so many calls; and the file that has a dot a call."""
    deaths = tmp_path / "deaths"
    deaths.write_text("")
    return DEADLY.format(deaths=str(deaths), how=how, times=times), deaths


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV"])
def test_a_call_whose_process_is_killed_is_made_again(worker, tmp_path, how):
    code, deaths = dying(tmp_path, how, times=2)
    assert worker.call(exec, code, timeout=20) is None
    assert deaths.read_text() == "..."


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("SIGKILL", WorkerKilled, r"^a scoring process was killed 3 times .*Killed.* lower rewards\.workers$"),
        ("SIGSEGV", WorkerDied, r"^a crash of 3 processes \(signal 11, Segmentation fault\)$"),
    ],
)
def test_a_call_whose_processes_are_all_killed_has_no_result(worker, tmp_path, how, error, message):
    code, deaths = dying(tmp_path, how, times=9)
    with pytest.raises(error, match=message):
        worker.call(exec, code, timeout=20)
    assert deaths.read_text() == "..."
    assert worker.call(operator.add, 2, 3, timeout=60) == 5


def test_a_worker_that_is_killed_between_calls_is_replaced(worker):
    pid = worker.call(os.getpid, timeout=60)
    os.kill(pid, signal.SIGKILL)
    assert worker.call(os.getpid, timeout=60) != pid


def test_the_limit_that_the_process_itself_keeps_is_a_timeout(worker):
    with pytest.raises(TimeoutError, match="by the process's own clock"):
        worker.call(os.kill, worker.call(os.getpid, timeout=60), signal.SIGALRM, timeout=5)


STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def test_what_asks_every_process_of_a_job_to_stop_is_not_for_the_worker(capfd):
    """Not while it starts, either, whose traceback would land in the middle of the program's own last words."""
    worker = Worker()
    worker.start()
    process, connection = worker._running
    while not connection.poll(0.005):  # until it is ready
        for each in STOPS:
            process.send_signal(each)
    assert worker.call(os.getpid, timeout=60) == process.pid
    for each in STOPS:
        process.send_signal(each)
        assert worker.call(os.getpid, timeout=60) == process.pid
    worker.close()
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_is_killed_while_it_starts_is_replaced(capfd):
    worker = Worker()
    worker.start()
    worker._running[0].kill()
    assert worker.call(operator.add, 2, 3, timeout=60) == 5
    worker.close()
    assert capfd.readouterr() == ("", "")


CHILDREN = """
import os, signal, subprocess
started = subprocess.Popen(["sleep", "600"])
started.terminate()
forked = os.fork()
if forked == 0:
    signal.pause()
os.kill(forked, signal.SIGTERM)
codes = started.wait(), -os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])
kept = subprocess.Popen(["sleep", "600"]).pid
"""


def test_what_user_code_starts_can_be_stopped_and_ends_with_it(tmp_path):
    worker = Worker()
    (tmp_path / "user.py").write_text(CHILDREN)
    codes, kept = worker.call(
        eval,
        f"(lambda m: (m['codes'], m['kept']))(__import__('runpy').run_path({str(tmp_path / 'user.py')!r}))",
        timeout=20,
    )
    assert codes == (-signal.SIGTERM, signal.SIGTERM)
    assert is_alive(kept)
    worker.close()
    assert wait_until_gone([kept])


def test_a_process_that_takes_the_place_of_another_is_prepared_first(tmp_path):
    worker = Worker()
    log = tmp_path / "prepared"
    worker.prepare(exec, f"print('prepared', file=open({str(log)!r}, 'a'))", timeout=20)
    os.kill(worker.call(os.getpid, timeout=60), signal.SIGKILL)
    assert worker.call(operator.add, 2, 3, timeout=60) == 5
    assert log.read_text() == "prepared\n" * 2
    worker.close()


def test_ctrl_c_in_the_terminal_does_not_reach_a_worker_that_is_still_starting(worker):
    """The terminal signals the program's process group."""
    worker.start()
    process, _ = worker._running
    assert os.getpgid(process.pid) == process.pid != os.getpgrp()


def test_a_pool_runs_calls_side_by_side_and_ends_its_processes():
    with WorkerPool(2, timeout=20) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(8)}
        sleeping = [pool.submit(time.sleep, 0.2) for _ in range(2)]
        assert [future.result() for future in sleeping] == [None, None]
    assert 1 <= len(pids) <= 2
    assert wait_until_gone(list(pids))


def test_leaving_a_pool_drops_open_calls_at_once():
    with WorkerPool(1, timeout=600) as pool:
        pid = pool.submit(os.getpid).result()
        running, waiting = pool.submit(time.sleep, 600), pool.submit(time.sleep, 600)
        while not running.running():
            time.sleep(0.01)
    with pytest.raises(WorkerDied):
        running.result()
    with pytest.raises(CancelledError):
        waiting.result()
    assert wait_until_gone([pid])


PROGRAM = """
import operator, os, time
from observe_r1.rewards.worker import WorkerPool
with WorkerPool(2, timeout={timeout}) as pool:
    print(*{{pool.submit(os.getpid).result() for _ in range(8)}}, flush=True)
    pool.submit(operator.pow, 9, 9**10)
    pool.submit(operator.pow, 9, 9**10).result()
"""


@pytest.mark.parametrize(("how", "timeout"), [(signal.SIGINT, 600), (signal.SIGKILL, 1)], ids=["ctrl-c", "kill"])
def test_no_worker_outlives_an_interrupted_program(how, timeout):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(timeout=timeout)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert pids
    program.send_signal(how)
    program.wait(timeout=20)
    assert wait_until_gone(pids)


SCRIPT = """
print("main runs")
import os
from observe_r1.rewards.worker import WorkerPool
with WorkerPool(1, timeout=20) as pool:
    print(pool.submit(os.getpid).result() != os.getpid())
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, "-u", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("main runs\nTrue\n", "")
