"""One contender of ``benchmarks.waiting``, run as a script by its own Python: N triggers in one event loop.

``waiting_contender.py ours|peer N CLUSTERS DEADLINE_SECONDS ENDPOINT`` prints JSON. Imports nothing of the
repository but, for ``ours``, the package itself: the peer's environment has neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

POLL_SECONDS = 30
TICK_SECONDS = 0.02


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trigger(whose: str, number: int, clusters: int, deadline: datetime) -> Any:
    cluster_id, step_id = f"j-{number % clusters}", f"s-{number}"
    if whose == "ours":
        from airflow_emr_etl.triggers.emr_step import EmrStepTrigger

        return EmrStepTrigger(
            cluster_id=cluster_id,
            step_id=step_id,
            poll_interval=POLL_SECONDS,
            deadline=deadline.isoformat(),
            region_name="us-east-1",
        )
    from airflow.providers.amazon.aws.triggers.emr import EmrAddStepsTrigger

    return EmrAddStepsTrigger(
        job_flow_id=cluster_id,
        step_ids=[step_id],
        waiter_delay=POLL_SECONDS,
        waiter_max_attempts=10_000,
        aws_conn_id="aws_default",
    )


async def measure(whose: str, steps: int, clusters: int, seconds: float, endpoint: str) -> dict[str, Any]:
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    import boto3  # noqa: F401 - not the triggers' own memory

    trigger(whose, 0, clusters, deadline)
    before, cpu = resident(), time.process_time()
    resumed: dict[str, float] = {}
    failed: dict[str, str] = {}
    lags: list[float] = []

    async def one(number: int) -> None:
        try:
            async for event in trigger(whose, number, clusters, deadline).run():
                status = event.payload.get("status")
                if status in ("done", "success"):
                    resumed[f"s-{number}"] = time.time()
                else:
                    failed[f"s-{number}"] = str(event.payload)[:300]
                return
        except Exception as error:
            failed[f"s-{number}"] = repr(error)[:300]

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            lags.append(time.perf_counter() - due)

    ticking = asyncio.create_task(tick())
    request = urllib.request.Request(f"{endpoint}/begin", data=b"", method="POST")
    await asyncio.to_thread(lambda: urllib.request.urlopen(request).read())
    waiting = [asyncio.create_task(one(number)) for number in range(steps)]
    settling = min(45.0, seconds / 2)
    await asyncio.sleep(settling)
    held = resident()
    _, open_still = await asyncio.wait(waiting, timeout=seconds - settling)
    for task in open_still:
        task.cancel()
    ticking.cancel()
    lags.sort()
    return {
        "resumed": resumed,
        "failed": failed,
        "open": len(open_still),
        "bytes_per_trigger": (held - before) / steps,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cpu_seconds": time.process_time() - cpu,
        "loop_lag_p99_ms": 1000 * lags[int(len(lags) * 0.99)],
        "loop_lag_max_ms": 1000 * lags[-1],
    }


def main() -> None:
    whose, endpoint = sys.argv[1], sys.argv[5]
    steps, clusters = int(sys.argv[2]), int(sys.argv[3])
    found = asyncio.run(measure(whose, steps, clusters, float(sys.argv[4]), endpoint))
    print("RESULT " + json.dumps(found), flush=True)
    os._exit(0)  # threads that still wait for an answer need not be waited for


if __name__ == "__main__":
    main()
