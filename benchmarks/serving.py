"""One model behind `histopipe serve` and behind `mlflow models serve`, under requests of many clients, a patch each.

Both servers run on this machine, one at a time, round after round; clients are coroutines of one process that keep
their connections and send the same drawn patches: as a form to ours, in base64 as JSON to MLflow's, each as its users
do. Then ours alone: how it bears twice the load that it can sustain, arriving at fixed times whether or not earlier
requests were answered, and what memory it takes over many requests.

    python -m benchmarks.serving                               # 3 rounds of 2,000 requests, 20,000 for the memory
    python -m benchmarks.serving --rounds 1 --requests 200 --soak 1000 --seconds 3
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.checkouts import ROOT, claim
from benchmarks.measuring import alternate, medians, report
from histopipe.core.operating_point import OperatingPoint

CLIENTS = 32
PATCHES = 64  # different ones that are sent
START_SECONDS = 240.0
WARM_UP = 300  # requests before anything is measured
SAMPLES = 20  # of the memory, over all requests
SETTLED = 5  # samples before memory is held to be what it will be
POINT: OperatingPoint = {
    "temperature": 1.0,
    "offset": 0.0,
    "threshold": 0.5,
    "rule": "youden",
    "positive_class": "IDC",
    "negative_class": "benign",
    "data_set": "idc",
    "patch_size": [50, 50],
    "resized": False,
}


@dataclass
class Answers:
    """The responses that clients received.

    Attributes:
        seconds: duration of each successful request.
        due: scheduled time of each of these, in seconds since the start; of an open loop alone.
        statuses: numbers of responses by status.
        took: seconds from the first request to the last response.
    """

    seconds: list[float] = field(default_factory=list)
    due: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    took: float = 0.0

    def at(self, share: float) -> float:
        """Return the milliseconds within which this share of them was answered."""
        return _milliseconds(self.seconds, share)

    def over_time(self, share: float, parts: int) -> list[float]:
        """Return the same for each part of the time in turn: a growing queue shows here."""
        seconds, due = np.array(self.seconds), np.array(self.due)
        part = np.minimum(due * parts // (due.max(initial=0.0) + 1e-9), parts - 1)
        return [_milliseconds(seconds[part == number], share) for number in range(parts)]


def _milliseconds(seconds: Sequence[float] | NDArray[np.float64], share: float) -> float:
    return round(1e3 * float(np.quantile(seconds, share)), 2) if len(seconds) else float("nan")


@dataclass(frozen=True)
class Side:
    """A running service or server, and the requests that it is sent."""

    port: int
    process: psutil.Process
    messages: list[bytes]

    @property
    def memory(self) -> float:
        """The memory of it and its children, in MiB."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) / 2**20


def make_checkout(folder: Path, point: OperatingPoint = POINT) -> tuple[Path, str]:
    """Make a checkout with an untrained CancerNet in its registry; return it and the model's address."""
    import keras
    import mlflow

    from histopipe.evaluation.mlflow_run import log_calibrated_model
    from histopipe.networks.architectures import build

    root = claim(folder / "serving", emptied=True)
    shutil.copy(ROOT / "params.yaml", root)
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    experiment = mlflow.create_experiment("serving", (root / "mlartifacts").as_uri())
    keras.utils.set_random_seed(1)
    with mlflow.start_run(experiment_id=experiment):
        model = log_calibrated_model(build("cancernet", image_size=48), point, np.zeros((50, 50, 3), np.uint8), {})
    mlflow.register_model(f"models:/{model.model_id}", "histopipe-idc")
    return root, "models:/histopipe-idc/1"


def drawn_patches(folder: Path) -> list[bytes]:
    """Draw patches and return their PNG files, as in Kaggle's archive."""
    import zipfile

    from histopipe.ingest.synthetic.archive import write_archive
    from histopipe.ingest.synthetic.plan import SyntheticSlides

    path = folder / "serving.zip"
    write_archive(path, SyntheticSlides(2, PATCHES, False), progress=False)
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()][:PATCHES]


def as_form(content: bytes) -> bytes:
    """Return a request to ours."""
    head = (
        b'--patch\r\nContent-Disposition: form-data; name="images"; filename="p.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    return _message("/v1/predict", "multipart/form-data; boundary=patch", head + content + b"\r\n--patch--\r\n")


def as_json(content: bytes) -> bytes:
    """Return a request to MLflow's."""
    body = json.dumps({"dataframe_records": [{"image": base64.b64encode(content).decode()}]})
    return _message("/invocations", "application/json", body.encode())


def _message(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def surroundings(root: Path) -> dict[str, str]:
    """Return the environment of both."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # where uvicorn lies
    }


@contextmanager
def running(side: str, root: Path, model: str, contents: list[bytes]) -> Iterator[Side]:
    """Run one of the two inside the block, ready to respond."""
    port = _free_port()
    ours = [sys.executable, "-m", "histopipe", "serve", "--model", model, "--port", str(port)]
    theirs = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)]
    form = as_form if side == "ours" else as_json
    with (root / f"{side}.log").open("w") as log:
        command = ours if side == "ours" else theirs
        process = subprocess.Popen(
            command, cwd=root, env=surroundings(root), stdout=log, stderr=log, start_new_session=True
        )
    try:
        side_process = Side(port, psutil.Process(process.pid), [form(content) for content in contents])
        _wait_until_ready(side_process, root / f"{side}.log", process)
        yield side_process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(side: Side, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until it has predicted a few patches: the first ones take longer."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            asyncio.run(closed_loop(side, 1, 20))
            asyncio.run(closed_loop(side, CLIENTS, WARM_UP))
            return
        except (OSError, asyncio.IncompleteReadError):
            time.sleep(0.5)
    raise SystemExit(f"the server doesn't answer: {log.read_text(encoding='utf-8')[-2000:]}")


class Client:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Connect, unless it is connected."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)

    async def send(self, message: bytes) -> int:
        """Send a request and read the response; return its status."""
        await self.open()
        assert self._streams
        reader, writer = self._streams
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        return int(head[9:12])

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()


async def closed_loop(side: Side, clients: int, count: int) -> Answers:
    """Run that many clients, each of which sends its next request after the last response."""
    answers = Answers()
    left = iter(range(count))

    async def client(connection: Client) -> None:
        for number in left:
            began = time.perf_counter()
            status = await connection.send(side.messages[number % len(side.messages)])
            answers.statuses[status] += 1
            if status == 200:
                answers.seconds.append(time.perf_counter() - began)

    connections = [Client(side.port) for _ in range(clients)]
    for connection in connections:
        await connection.open()
    began = time.perf_counter()
    await asyncio.gather(*map(client, connections))
    answers.took = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return answers


async def open_loop(side: Side, rate: float, seconds: float) -> Answers:
    """Send requests at fixed times, `rate` a second, whatever the state of earlier ones.

    Seconds count from those times.
    """
    answers, idle = Answers(), asyncio.Queue[Client]()

    async def request(number: int, due: float) -> None:
        connection = Client(side.port) if idle.empty() else idle.get_nowait()
        try:
            status = await connection.send(side.messages[number % len(side.messages)])
        except (OSError, asyncio.IncompleteReadError):
            answers.statuses[0] += 1
            return
        idle.put_nowait(connection)
        answers.statuses[status] += 1
        if status == 200:
            answers.seconds.append(time.perf_counter() - due)
            answers.due.append(due - began)

    began, tasks = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(request(number, due)))
    await asyncio.gather(*tasks)
    answers.took = time.perf_counter() - began
    while not idle.empty():
        idle.get_nowait().close()
    return answers


def measure(side: Side, requests: int) -> dict[str, float]:
    """Measure the throughput at many clients, and the latency at one."""
    many = asyncio.run(closed_loop(side, CLIENTS, requests))
    single = asyncio.run(closed_loop(side, 1, max(50, requests // 4)))
    for answers in (many, single):
        if set(answers.statuses) != {200}:
            raise SystemExit(f"refused below its load: {dict(answers.statuses)}")
    return {
        "requests_per_second": round(len(many.seconds) / many.took, 1),
        "p50_ms": many.at(0.5),
        "p99_ms": many.at(0.99),
        "one_client_ms": round(1e3 * statistics.median(single.seconds), 3),
        "memory_mib": round(side.memory),
    }


def overload(side: Side, sustained: float, seconds: float) -> dict[str, Any]:
    """Send twice the sustainable load: accepted requests are answered soon, the others are refused."""
    answers = asyncio.run(open_loop(side, 2 * sustained, seconds))
    return {
        "asked_per_second": round(2 * sustained, 1),
        "graded_per_second": round(len(answers.seconds) / answers.took, 1),
        "statuses": {str(status): count for status, count in sorted(answers.statuses.items())},
        "p50_ms": answers.at(0.5),
        "p99_ms": answers.at(0.99),
        "p99_ms_by_quarter": answers.over_time(0.99, 4),
        "took_seconds": round(answers.took, 2),
        "seconds": seconds,
    }


def soak(side: Side, count: int) -> dict[str, Any]:
    """Measure the memory over many requests."""
    samples = []
    for _ in range(SAMPLES):
        asyncio.run(closed_loop(side, CLIENTS, max(1, count // SAMPLES)))
        samples.append(round(side.memory, 1))
    settled = samples[SETTLED]
    return {"requests": count, "memory_mib": samples, "growth": round(max(samples[SETTLED:]) / settled - 1, 4)}


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often each side runs.")
@click.option("--requests", default=2000, show_default=True, help="Of a round, at 32 clients.")
@click.option("--soak", "soaked", default=20_000, show_default=True, help="Requests over which memory is watched.")
@click.option("--seconds", default=20.0, show_default=True, help="Of twice the load.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
def main(rounds: int, requests: int, soaked: int, seconds: float, folder: Path) -> None:
    """Compare the servers; the last line is JSON and holds `ratio`: our throughput at 32 clients over MLflow's."""
    folder.mkdir(parents=True, exist_ok=True)
    root, model = make_checkout(folder)
    contents = drawn_patches(folder)
    gc.collect()
    gc.freeze()  # else full collections would halt the clients, and be counted as the servers' time

    def one_round(name: str) -> dict[str, float]:
        with running(name, root, model, contents) as side:
            return measure(side, requests)

    sides = {name: lambda name=name: one_round(name) for name in ("ours", "mlflow")}
    results: Mapping[str, dict[str, float]] = {name: medians(runs) for name, runs in alternate(sides, rounds).items()}
    with running("ours", root, model, contents) as side:
        sustained = results["ours"]["requests_per_second"]
        beyond = overload(side, sustained, seconds)
        lasting = soak(side, soaked)
    report(
        "serving",
        ratio=round(results["ours"]["requests_per_second"] / results["mlflow"]["requests_per_second"], 2),
        ratio_one_client=round(results["mlflow"]["one_client_ms"] / results["ours"]["one_client_ms"], 2),
        clients=CLIENTS,
        requests=requests,
        rounds=rounds,
        **results,
        overload=beyond,
        soak=lasting,
    )


if __name__ == "__main__":
    main()
