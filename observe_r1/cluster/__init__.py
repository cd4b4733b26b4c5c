"""Policy and engines spread over many GPUs and machines.

start      a run's parts, started on Ray
placement  Ray itself, and a seat for every rank and engine
ranks      the policy's ranks, as the driver sees them; rank_actor is one of them, in its process
calls      calls that all ranks take together: which error is a rank that is lost, and which is a bug
engines    the pool of sampling engines; engine_seat is one's place in it, engine_actor the engine in its process
weights    how engines get new weights
plan       the capacity plan of a run, before it is started
sharded_policy, sharding, balance    what happens on a rank: FSDP2, and passes balanced by work
"""


class RankLostError(Exception):
    """A process of the run is gone or hangs: the run can start again from its last checkpoint."""
