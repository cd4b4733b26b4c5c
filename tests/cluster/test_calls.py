"""Calls on ranks that wait for each other over real gloo: which error is a rank that is lost, and which is a bug.

On a Ray that was started for a run, of which no port may be reachable from outside.
"""

import os
import signal
import time
from datetime import timedelta
from ipaddress import ip_address

import psutil
import pytest
import ray
from ray.exceptions import RaySystemError

from observe_r1.cluster import RankLostError, calls
from observe_r1.cluster.calls import collect
from observe_r1.cluster.placement import open_ray
from observe_r1.config import ClusterSettings
from observe_r1.errors import UserError

NEVER = 1000.0
"""Seconds that a rank would wait for another."""
GLOO = 3.0


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with open_ray(ClusterSettings(gpus=2, dashboard=None), "cpu"):
        yield


@ray.remote(concurrency_groups={"beside": 1}, num_cpus=0)
class Rank:
    @ray.method(concurrency_group="beside")
    def alive(self):
        pass

    def process(self):
        return os.getpid()

    def meet(self, folder, rank, seconds):
        from torch import distributed

        limit = timedelta(seconds=seconds)
        distributed.init_process_group("gloo", f"file://{folder}/store", limit, world_size=2, rank=rank)

    def add(self):
        """Wait for the other rank."""
        import torch
        from torch import distributed

        distributed.all_reduce(torch.ones(1))

    def sleep(self, seconds):
        time.sleep(seconds)

    def fail(self, error):
        raise error


class _BugError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")  # which cannot be unpickled


def pair(folder, seconds):
    ranks = [Rank.remote() for _ in range(2)]
    ray.get([rank.meet.remote(folder, number, seconds) for number, rank in enumerate(ranks)])
    return ranks


def test_the_cause_is_told_while_another_rank_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "_TOGETHER", 0.2)
    waiting, other = ranks = pair(tmp_path, NEVER)
    process = ray.get(other.process.remote())
    stuck = waiting.add.remote()

    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        collect([stuck, other.fail.remote(ZeroDivisionError("a bug"))], ranks, timeout=NEVER)
    assert "in fail" in str(caught.value.__cause__) and "raise error" in str(caught.value.__cause__)
    with pytest.raises(RaySystemError, match="_BugError"):
        collect([stuck, other.fail.remote(_BugError("one", "two"))], ranks, timeout=NEVER)
    with pytest.raises(UserError, match=r"^lower it$") as caught:
        collect([stuck, other.fail.remote(UserError("lower it"))], ranks, timeout=NEVER)
    assert caught.value.__suppress_context__
    with pytest.raises(FileNotFoundError) as caught:
        collect([stuck, other.fail.remote(FileNotFoundError(2, "No such file", "x"))], ranks, timeout=NEVER)
    assert caught.value.filename == "x"

    sleeping = other.sleep.remote(NEVER)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RankLostError, match="has died"):
        collect([stuck], ranks, timeout=NEVER)  # says that its connection broke, and nothing of why
    with pytest.raises(RankLostError, match="has died"):
        collect([sleeping], ranks, timeout=NEVER)
    ray.kill(waiting)


def test_a_rank_that_hangs_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "_BEAT", 0.1)
    waiting, other = ranks = pair(tmp_path, GLOO)
    process = ray.get(other.process.remote())
    with pytest.raises(RankLostError, match="others ended over 1 s"):
        collect([waiting.process.remote(), other.sleep.remote(3)], ranks, timeout=1.0)
    with pytest.raises(RankLostError, match=r"waited in vain for each other for 1 s"):
        collect([waiting.sleep.remote(3), other.sleep.remote(3)], ranks, limit=1.0)
    with pytest.raises(RankLostError, match=r"waited in vain for each other: .*[Tt]imed out"):
        collect([waiting.add.remote(), other.sleep.remote(2 * GLOO)], ranks, timeout=GLOO)
    ray.get(other.process.remote())  # it has slept
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(RankLostError, match="a rank hangs: no answer in 2 s"):
        collect([waiting.sleep.remote(NEVER), other.process.remote()], ranks, timeout=2.0)
    with pytest.raises(RankLostError, match="a rank hangs: no answer in 2 s"):
        collect([other.process.remote()], [other], timeout=2.0)
    os.kill(process, signal.SIGKILL)
    ray.kill(waiting)


def test_results_come_in_order():
    ranks = [Rank.remote() for _ in range(2)]
    assert collect([rank.process.remote() for rank in ranks], ranks) == ray.get([r.process.remote() for r in ranks])
    assert collect([ranks[0].sleep.remote(1), ranks[1].process.remote()], ranks, timeout=NEVER)[0] is None
    for rank in ranks:
        ray.kill(rank)


def test_everything_listens_on_loopback_alone():
    rank = Rank.remote()
    ray.get(rank.process.remote())
    mine = psutil.Process().children(recursive=True)
    open_ports = [
        ip_address(connection.laddr.ip.removeprefix("::ffff:"))
        for process in [psutil.Process(), *mine]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(mine) > 2 and len(open_ports) > 2
    assert all(address.is_loopback for address in open_ports), open_ports
    ray.kill(rank)


def test_a_process_that_uses_ray_already_is_told_in_one_line():
    for settings in ({"gpus": 2}, {"address": "127.0.0.1:1"}):
        with (
            pytest.raises(UserError, match=r"uses Ray already: call ray\.shutdown"),
            open_ray(ClusterSettings(**settings), "cpu"),
        ):
            pass
    assert ray.is_initialized()
