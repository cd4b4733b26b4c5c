"""What a draw and a recorded pass rate cost under the adaptive order, by the number of rows of the dataset.

python benchmarks/adaptive_order.py
"""

import json
import time

import numpy as np

from observe_r1.data.order import AdaptiveOrder

DRAWS, AHEAD = 20_000, 160  # as many rows wait for their pass rates as a rollout of 128 and 32 read ahead


def measure(rows: int) -> dict[str, float]:
    """Return microseconds a draw with its record, and milliseconds of what a step or a checkpoint asks for once."""
    order, random = AdaptiveOrder(rows, seed=0, floor=0.1), np.random.default_rng(0)
    rates = np.round(random.beta(0.6, 0.6, rows) * 8) / 8
    order.load_state_dict({"size": rows, "draws": 0, "waiting": [], "rates": rates.tolist()})
    waiting = [order.next() for _ in range(min(AHEAD, rows // 2))]
    started = time.perf_counter()
    for number in range(DRAWS):
        waiting.append(order.next())
        order.record(waiting[number], rates[waiting[number]])
    pair = (time.perf_counter() - started) / DRAWS
    started = time.perf_counter()
    order.metrics()
    metrics = time.perf_counter() - started
    started = time.perf_counter()
    state = json.dumps(order.state_dict())
    saving = time.perf_counter() - started
    return {
        "rows": rows,
        "draw_and_record_us": round(pair * 1e6, 1),
        "metrics_ms": round(metrics * 1e3, 2),
        "state_ms": round(saving * 1e3, 1),
        "state_mb": round(len(state) / 1e6, 2),
    }


if __name__ == "__main__":
    for size in (10**3, 10**4, 10**5, 10**6):
        print(json.dumps(measure(size)))
