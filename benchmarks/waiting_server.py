"""EMR's reads and an SQS queue on loopback, for ``benchmarks.waiting``: counts calls and connections, and throttles.

``python -m benchmarks.waiting_server '{"steps": 100, "clusters": 1, "first": 45, "last": 165, "health": "healthy",
"queue_lost_after": null}'`` prints its port. What is counted, is counted from POST /start on. POST /begin starts the
clock: the steps end evenly between ``first`` and ``last`` seconds from then on, in an order that is shuffled but
always the same. GET /stats tells what was counted.

Each operation has a token bucket, and all of them together one, as on AWS. The queue is fed as EventBridge would:
once and at times twice, with a delay, out of order.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PAGE = 50
MOST_IDS = 10
LATENCY_SECONDS = 0.03
ACCOUNT, REGION, QUEUE = "123456789012", "us-east-1", "emr-etl-events"
#: Of an event, from what happens to the queue; and how many of them come twice.
DELIVERY_SECONDS, TWICE = (0.2, 0.8), 0.01
VISIBILITY_SECONDS = 30.0
MOST_MESSAGES = 10

Bucket = tuple[float, float]
"""Burst in calls, and calls a second by which it fills again."""

#: The quotas of a new account, by https://docs.aws.amazon.com/general/latest/gr/emr.html and Service Quotas:
#: bursts of 10 for DescribeStep, ListSteps and DescribeCluster, 20 for ListClusters; 0.5 calls a second for them
#: (1 for DescribeCluster); 25 and 5 for all operations together. "Healthy" is an account whose quotas of single
#: operations were raised to what the one for all of them admits; "throttled" has the rates of a new account,
#: and others use the bursts up.
BURSTS = {"DescribeStep": 10.0, "ListSteps": 10.0, "DescribeCluster": 10.0, "ListClusters": 20.0}
NEW_RATES = {"DescribeStep": 0.5, "ListSteps": 0.5, "DescribeCluster": 1.0, "ListClusters": 0.5}
ALL: Bucket = (25.0, 5.0)
BUCKETS: dict[str, dict[str, Bucket]] = {
    "healthy": {operation: (burst, ALL[1]) for operation, burst in BURSTS.items()},
    "throttled": {operation: (2.0, rate) for operation, rate in NEW_RATES.items()},
}


class RefusedError(Exception):
    """An AWS error: its code and message."""

    def __init__(self, code: str, message: str, query_code: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.query_code = code, message, query_code


class TokenBuckets:
    def __init__(self, buckets: dict[str, Bucket]) -> None:
        self.buckets = {**buckets, "": ALL}
        self.left = {operation: (burst, 0.0) for operation, (burst, _) in self.buckets.items()}

    def admits(self, operation: str, now: float) -> bool:
        """A refused call takes no token."""
        filled = {}
        for name in (operation, ""):
            burst, rate = self.buckets[name]
            tokens, since = self.left[name]
            filled[name] = min(burst, tokens + (now - since) * rate)
        admitted = all(tokens >= 1 for tokens in filled.values())
        for name, tokens in filled.items():
            self.left[name] = (tokens - admitted, now)
        return admitted


@dataclass
class Message:
    body: str
    visible_at: float
    receipt: str = ""


class EventQueue:
    """A standard queue of SQS. Times are those of the event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: dict[str, Message] = {}
        #: When the queue was deleted.
        self.lost_at = float("inf")

    async def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if asyncio.get_running_loop().time() >= self.lost_at:
            raise RefusedError(
                "com.amazonaws.sqs#QueueDoesNotExist",
                "The specified queue does not exist.",
                "AWS.SimpleQueueService.NonExistentQueue",
            )
        if operation == "GetQueueUrl":
            return {"QueueUrl": self.url}
        if operation == "ReceiveMessage":
            return {"Messages": await self.receive(request)}
        if operation == "DeleteMessage":
            self.delete(request["ReceiptHandle"])
            return {}
        assert operation == "DeleteMessageBatch", operation
        for entry in request["Entries"]:
            self.delete(entry["ReceiptHandle"])
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]], "Failed": []}

    async def receive(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        until = loop.time() + min(20, request.get("WaitTimeSeconds", 0))
        most = min(MOST_MESSAGES, request.get("MaxNumberOfMessages", 1))
        while True:
            now = loop.time()
            found = []
            for message_id, message in self.messages.items():
                if message.visible_at <= now:
                    message.visible_at = now + request.get("VisibilityTimeout", VISIBILITY_SECONDS)
                    message.receipt = f"{message_id}#{uuid.uuid4()}"
                    found.append(self.document(message_id, message))
                    if len(found) == most:
                        break
            if found or now >= until or now >= self.lost_at:
                return found
            await asyncio.sleep(0.02)

    @staticmethod
    def document(message_id: str, message: Message) -> dict[str, Any]:
        md5 = hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest()
        return {
            "MessageId": message_id,
            "ReceiptHandle": message.receipt,
            "MD5OfBody": md5,
            "Body": message.body,
        }

    def delete(self, receipt: str) -> None:
        self.messages.pop(receipt.partition("#")[0], None)

    def send(self, body: str) -> None:
        self.messages[str(uuid.uuid4())] = Message(body, asyncio.get_running_loop().time())


class Server:
    def __init__(
        self,
        steps: int,
        clusters: int,
        first: float,
        last: float,
        health: str,
        queue_lost_after: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        order = list(range(steps))
        self.random = random.Random(1)
        self.random.shuffle(order)
        self.ends = {number: first + (last - first) * place / steps for place, number in enumerate(order)}
        #: Newest first, as EMR lists them. Numbers are the order in which the steps were added.
        self.clusters = {
            f"j-{index}": list(range(steps - 1 - (steps - 1 - index) % clusters, -1, -clusters))
            for index in range(min(clusters, steps))
        }
        self.names = sorted(self.clusters)
        self.buckets = TokenBuckets(BUCKETS[health])
        self.last, self.queue_lost_after = last, queue_lost_after
        self.now = now
        self.queue = EventQueue("")
        self.begun = 0.0
        self.sending: set[asyncio.Task[None]] = set()
        self.calls: list[tuple[float, str, bool]] = []
        self.queue_calls: list[tuple[float, str]] = []
        self.connections = self.open = self.most_open = 0

    # What EMR would answer

    def has_ended(self, number: int) -> bool:
        # Negative numbers are steps that ended long ago, for a contender to warm up with.
        return number < 0 or (self.begun > 0 and self.now() >= self.begun + self.ends[number])

    def state(self, number: int) -> str:
        return "COMPLETED" if self.has_ended(number) else "RUNNING"

    def step(self, number: int) -> dict[str, Any]:
        began = self.begun or self.now()
        timeline = {"CreationDateTime": began, "StartDateTime": began}
        if self.has_ended(number):
            timeline["EndDateTime"] = began + self.ends.get(number, 0.0)
        return {
            "Id": f"s-{number}",
            "Name": f"step {number}",
            "ActionOnFailure": "CONTINUE",
            "Config": {"Jar": "command-runner.jar", "Properties": {}, "Args": ["spark-submit", "--x", "y"]},
            "Status": {"State": self.state(number), "StateChangeReason": {}, "Timeline": timeline},
        }

    def cluster(self, cluster_id: str) -> dict[str, Any]:
        status = {"State": "RUNNING", "StateChangeReason": {}, "Timeline": {}}
        return {"Id": cluster_id, "Name": cluster_id, "Status": status}

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == "DescribeStep":
            return {"Step": self.step(self.number(request["StepId"]))}
        if operation == "DescribeCluster":
            return {"Cluster": self.cluster(request["ClusterId"])}
        if operation == "ListClusters":
            states = request.get("ClusterStates") or ["RUNNING"]
            names = self.names if "RUNNING" in states else []
            start = int(request.get("Marker") or 0)
            more = {"Marker": str(start + PAGE)} if start + PAGE < len(names) else {}
            return {"Clusters": [self.cluster(name) for name in names[start : start + PAGE]], **more}
        assert operation == "ListSteps", operation
        return self.list_steps(request)

    def list_steps(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = request.get("StepIds") or []
        if len(ids) > MOST_IDS:
            raise RefusedError("InvalidRequestException", f"StepIds: {len(ids)} given, at most {MOST_IDS}.")
        numbers = [self.number(each) for each in ids] if ids else self.clusters[request["ClusterId"]]
        states = request.get("StepStates")
        before = float(request.get("Marker") or "inf")
        page = []
        for number in numbers:
            if (ids or number < before) and (not states or self.state(number) in states):
                page.append(number)
                if len(page) > PAGE:
                    break
        more = {"Marker": str(page[PAGE - 1])} if len(page) > PAGE else {}
        return {"Steps": [self.step(number) for number in page[:PAGE]], **more}

    @staticmethod
    def number(step_id: str) -> int:
        return int(step_id.removeprefix("s-"))

    # What EventBridge would send

    def begin(self) -> None:
        self.begun = self.now()
        loop = asyncio.get_running_loop()
        if self.queue_lost_after is not None:
            self.queue.lost_at = loop.time() + self.queue_lost_after
        sends = asyncio.create_task(self.send_all(loop.time()))
        self.sending.add(sends)

    async def send_all(self, begun: float) -> None:
        """Each step's two events, in the order in which they come."""
        due: list[tuple[float, int, str]] = []
        for number, end in self.ends.items():
            for moment, state in ((0.0, "RUNNING"), (end, "COMPLETED")):
                due.append((moment + self.random.uniform(*DELIVERY_SECONDS), number, state))
        due += [
            (moment + self.random.uniform(*DELIVERY_SECONDS), number, state)
            for moment, number, state in self.random.sample(due, int(len(due) * TWICE))
        ]
        loop = asyncio.get_running_loop()
        for moment, number, state in sorted(due):
            wait = begun + moment - loop.time()
            if wait > 0.01:  # several at a time where they come thick and fast
                await asyncio.sleep(wait)
            self.queue.send(self.event(number, state))

    def event(self, number: int, state: str) -> str:
        """Step Status Change; one that comes twice is the same."""
        moment = self.begun + (self.ends[number] if state == "COMPLETED" else 0.0)
        cluster_id = f"j-{number % len(self.clusters)}"
        name = f"step {number}"
        document = {
            "version": "0",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number} {state}")),
            "detail-type": "EMR Step Status Change",
            "source": "aws.emr",
            "account": ACCOUNT,
            "time": datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": REGION,
            "resources": [],
            "detail": {
                "severity": "INFO",
                "actionOnFailure": "CONTINUE",
                "stepId": f"s-{number}",
                "name": name,
                "clusterId": cluster_id,
                "state": state,
                "message": f"Step s-{number} ({name}) in Amazon EMR cluster {cluster_id} is {state}.",
            },
        }
        return json.dumps(document)

    # What was counted

    def start(self) -> None:
        self.calls.clear()
        self.queue_calls.clear()
        self.connections = self.most_open = self.open

    def stats(self) -> dict[str, Any]:
        end = self.begun + self.last
        during = [each for each in self.calls if self.begun <= each[0] <= end]
        queue_during = [each for each in self.queue_calls if self.begun <= each[0] <= end]
        seconds = Counter(int(moment) for moment, _, _ in self.calls)
        minutes = Counter(int((moment - self.begun) // 60) for moment, _, _ in self.calls)
        return {
            "begun": self.begun,
            "ends": {f"s-{number}": end for number, end in self.ends.items()},
            "calls": dict(Counter(operation for _, operation, _ in self.calls)),
            "calls_throttled": sum(not admitted for _, _, admitted in self.calls),
            "calls_per_minute": len(during) * 60 / self.last,
            #: Minutes from when the steps began to run; negative ones are the contender's start.
            "calls_by_minute": {str(minute): number for minute, number in sorted(minutes.items())},
            "peak_calls_per_second": max(seconds.values(), default=0),
            "sqs_calls": dict(Counter(operation for _, operation in self.queue_calls)),
            "sqs_calls_per_minute": len(queue_during) * 60 / self.last,
            "connections": self.connections,
            "connections_open_peak": self.most_open,
        }

    # HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counted = False
        try:
            while line := await reader.readline():
                path = line.split()[1].decode()
                headers = {}
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not counted and "x-amz-target" in headers:
                    counted = True
                    self.connections += 1
                    self.open += 1
                    self.most_open = max(self.most_open, self.open)
                status, more, told = await self.respond(path, headers, body)
                text = json.dumps(told).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.1\r\n{more}"
                    f"Content-Length: {len(text)}\r\n\r\n".encode()
                    + text
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= counted
            writer.close()

    async def respond(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, Any]:
        """Status, more header lines, document."""
        if path in ("/start", "/begin", "/stats"):
            {"/start": self.start, "/begin": self.begin}.get(path, lambda: None)()
            return 200, "", self.stats() if path == "/stats" else {}
        service, _, operation = headers["x-amz-target"].partition(".")
        request = json.loads(body or b"{}")
        try:
            if service == "AmazonSQS":
                self.queue_calls.append((self.now(), operation))
                await asyncio.sleep(LATENCY_SECONDS)
                return 200, "", await self.queue.answer(operation, request)
            admitted = self.buckets.admits(operation, asyncio.get_running_loop().time())
            self.calls.append((self.now(), operation, admitted))
            await asyncio.sleep(LATENCY_SECONDS)
            if not admitted:
                raise RefusedError("ThrottlingException", "Rate exceeded")
            return 200, "", self.answer(operation, request)
        except RefusedError as refused:
            more = f"x-amzn-query-error: {refused.query_code};Sender\r\n" if refused.query_code else ""
            return 400, more, {"__type": refused.code, "message": refused.message}


async def main() -> None:
    served = Server(**json.loads(sys.argv[1]))
    listening = await asyncio.start_server(served.serve, "127.0.0.1", 0, backlog=4096)
    port = listening.sockets[0].getsockname()[1]
    served.queue.url = f"http://127.0.0.1:{port}/{ACCOUNT}/{QUEUE}"
    print(port, flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
