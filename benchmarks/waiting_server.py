"""EMR's reads on loopback, for ``benchmarks.waiting``: counts calls and connections, and throttles by token buckets.

``python -m benchmarks.waiting_server N CLUSTERS FIRST LAST BURST RATE`` prints its port. POST /begin starts the
clock: the steps end evenly between FIRST and LAST seconds from then on, in an order that is shuffled but always
the same. GET /stats tells what was counted. BURST and RATE are each operation's bucket, in calls and calls a second.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any

PAGE = 50
LATENCY_SECONDS = 0.03


class Server:
    def __init__(
        self, steps: int, clusters: int, first: float, last: float, burst: float, rate: float
    ) -> None:
        order = list(range(steps))
        random.Random(1).shuffle(order)
        self.ends = {
            f"s-{number}": first + (last - first) * place / steps for place, number in enumerate(order)
        }
        self.clusters = {
            f"j-{index}": [f"s-{n}" for n in range(steps) if n % clusters == index]
            for index in range(clusters)
        }
        self.burst, self.rate, self.last = burst, rate, last
        self.tokens: dict[str, tuple[float, float]] = {}
        self.begun = 0.0
        self.calls: list[tuple[float, str, bool]] = []
        self.connections = self.open = self.most_open = 0

    # What EMR would answer

    def step(self, step_id: str) -> dict[str, Any]:
        ended = self.begun and time.time() >= self.begun + self.ends[step_id]
        timeline: dict[str, float] = {
            "CreationDateTime": self.begun or time.time(),
            "StartDateTime": self.begun or time.time(),
        }
        if ended:
            timeline["EndDateTime"] = self.begun + self.ends[step_id]
        status = {"State": "COMPLETED" if ended else "RUNNING", "StateChangeReason": {}, "Timeline": timeline}
        return {
            "Id": step_id,
            "Name": f"step {step_id}",
            "ActionOnFailure": "CONTINUE",
            "Config": {"Jar": "command-runner.jar", "Properties": {}, "Args": ["spark-submit", "--x", "y"]},
            "Status": status,
        }

    def cluster(self, cluster_id: str) -> dict[str, Any]:
        status = {"State": "RUNNING", "StateChangeReason": {}, "Timeline": {}}
        return {"Id": cluster_id, "Name": cluster_id, "Status": status}

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == "DescribeStep":
            return {"Step": self.step(request["StepId"])}
        if operation == "DescribeCluster":
            return {"Cluster": self.cluster(request["ClusterId"])}
        if operation == "ListClusters":
            return self.page("Clusters", [self.cluster(each) for each in self.clusters], request)
        assert operation == "ListSteps", operation
        found = request.get("StepIds") or self.clusters[request["ClusterId"]]
        steps = [self.step(step_id) for step_id in found]
        states = request.get("StepStates")
        return self.page(
            "Steps", [step for step in steps if not states or step["Status"]["State"] in states], request
        )

    @staticmethod
    def page(key: str, items: list[Any], request: dict[str, Any]) -> dict[str, Any]:
        start = int(request.get("Marker") or 0)
        more = {"Marker": str(start + PAGE)} if start + PAGE < len(items) else {}
        return {key: items[start : start + PAGE], **more}

    def admitted(self, operation: str) -> bool:
        now = time.monotonic()
        tokens, since = self.tokens.get(operation, (self.burst, now))
        tokens = min(self.burst, tokens + (now - since) * self.rate)
        admitted = tokens >= 1
        self.tokens[operation] = (tokens - 1 if admitted else tokens, now)
        return admitted

    def stats(self) -> dict[str, Any]:
        during = [each for each in self.calls if 0 <= each[0] - self.begun <= self.last]
        seconds = Counter(int(moment - self.begun) for moment, _, _ in during)
        minutes = Counter(int((moment - self.begun) // 60) for moment, _, _ in during)
        return {
            "begun": self.begun,
            "ends": self.ends,
            "calls": dict(Counter(operation for _, operation, _ in during)),
            "throttled": sum(not admitted for _, _, admitted in during),
            "calls_per_minute": len(during) * 60 / self.last,
            "by_minute": [minutes[minute] for minute in range(int(self.last // 60) + 1)],
            "peak_calls_per_second": max(seconds.values(), default=0),
            "connections": self.connections,
            "most_open": self.most_open,
        }

    # HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while line := await reader.readline():
                path = line.split()[1].decode()
                headers = {}
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, told = await self.respond(path, headers, body)
                text = json.dumps(told).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.1\r\n"
                    f"Content-Length: {len(text)}\r\n\r\n".encode()
                    + text
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def respond(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if path in ("/begin", "/stats"):
            self.connections -= 1
            if path == "/begin":
                self.begun = time.time()
            return 200, self.stats()
        operation = headers["x-amz-target"].partition(".")[2]
        admitted = self.admitted(operation)
        self.calls.append((time.time(), operation, admitted))
        await asyncio.sleep(LATENCY_SECONDS)
        if not admitted:
            return 400, {"__type": "ThrottlingException", "message": "Rate exceeded"}
        return 200, self.answer(operation, json.loads(body or b"{}"))


async def main() -> None:
    steps, clusters = (int(value) for value in sys.argv[1:3])
    first, last, burst, rate = (float(value) for value in sys.argv[3:7])
    served = Server(steps, clusters, first, last, burst, rate)
    listening = await asyncio.start_server(served.serve, "127.0.0.1", 0, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
