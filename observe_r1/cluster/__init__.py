"""Policy and engines spread over many GPUs and machines.

start      a run's parts, started on Ray
placement  Ray itself, and a seat for every rank and engine
ranks      the policy's ranks, and the driver's side of them
calls      calls that all ranks take together: which error is a rank that is lost, and which is a bug
sampling   engines in processes of their own, and how they get new weights
sharded_policy, sharding, balance    what happens on a rank: FSDP2, and passes balanced by work
"""


class RankLostError(Exception):
    """A process of the run is gone or hangs: the run can start again from its last checkpoint."""
