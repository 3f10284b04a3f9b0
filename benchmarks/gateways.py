"""Streaming through gateways, side by side in one run: direct, bare pass-through, streamfold, and others.

    python benchmarks/gateways.py [--litellm PYTHON] [--portkey START_SERVER_JS] [--quick] [--json FILE]

`--litellm` is the Python of an environment with `litellm[proxy]`; `--portkey` the `build/start-server.js` of the npm
package `@portkey-ai/gateway`. Each gateway runs alone on one core, its upstream and clients on the other. Five figures:

* flat out: streams as fast as they go; CPU of the gateway per chunk, and what that makes per second and core;
* paced: one chunk every 20 ms in each stream, so that each is a read of its own; CPU per chunk;
* the time from the upstream's write of a chunk to the client's read, in the same paced streams;
* time to the first chunk at low load, beside that without a gateway;
* memory with 1,000 streams open that do nothing.

All gateways run at once and are asked in turn, round after round, and the medians are told: the machine may change its
speed meanwhile. Only what stands in one run can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from types import MappingProxyType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PER_STREAM = 200
HAND_OVER = {"flat": (PER_STREAM, 0), "paced": (PER_STREAM, 20), "low": (20, 5), "idle": (1, 600_000)}
TICKS = os.sysconf("SC_CLK_TCK")


class Gateway(NamedTuple):
    """How a gateway is started, and asked for `COUNT` chunks `PACE` milliseconds apart."""

    name: str
    start: Callable[[int, int, Path], list[str]] | None
    url: Callable[[int, int, str], str]
    headers: Callable[[int, str], dict[str, str]]
    model: Callable[[str], str] = lambda kind: "gpt-4o"
    scale: float = 1.0
    """How much of the work a slow gateway is given, so that a run ends."""
    environment: Mapping[str, str] = MappingProxyType({})


def path_of(kind: str) -> str:
    count, pace = HAND_OVER[kind]
    return f"/{count}/{pace}/v1"


def no_headers(upstream: int, kind: str) -> dict[str, str]:
    return {}


def direct() -> Gateway:
    return Gateway(
        "direct", None, lambda _, up, kind: f"http://127.0.0.1:{up}{path_of(kind)}/chat/completions", no_headers
    )


def bare() -> Gateway:
    return Gateway(
        "bare pass-through",
        lambda port, up, _: [sys.executable, str(HERE / "bare.py"), str(port), f"http://127.0.0.1:{up}"],
        lambda port, _, kind: f"http://127.0.0.1:{port}{path_of(kind)}/chat/completions",
        no_headers,
    )


def ours(python: str = sys.executable) -> Gateway:
    def start(port: int, up: int, scratch: Path) -> list[str]:
        flags = ["--port", str(port), "--db", str(scratch / "log.db"), "--upstream", f"bench=http://127.0.0.1:{up}"]
        return [python, "-m", "streamfold", "serve", *flags]

    return Gateway(
        "streamfold, all logged",
        start,
        lambda port, _, kind: f"http://127.0.0.1:{port}/bench{path_of(kind)}/chat/completions",
        no_headers,
    )


def litellm(python: str) -> Gateway:
    def start(port: int, up: int, scratch: Path) -> list[str]:
        models = [
            {
                "model_name": f"gpt-{kind}",
                "litellm_params": {
                    "model": "openai/gpt-4o",
                    "api_key": "sk-bench",
                    "api_base": f"http://127.0.0.1:{up}{path_of(kind)}",
                },
            }
            for kind in HAND_OVER
        ]
        config = scratch / "litellm.json"
        config.write_text(json.dumps({"model_list": models}))
        command = Path(python).parent / "litellm"
        return [
            python,
            str(command),
            "--config",
            str(config),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--num_workers",
            "1",
        ]

    # The clients send this key. A proxy without one would do less than it does in earnest, and refuses to start.
    quiet = {
        "LITELLM_MASTER_KEY": "sk-bench",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    return Gateway(
        "LiteLLM proxy",
        start,
        lambda port, _, __: f"http://127.0.0.1:{port}/v1/chat/completions",
        no_headers,
        model=lambda kind: f"gpt-{kind}",
        scale=0.05,
        environment=quiet,
    )


def portkey(script: str) -> Gateway:
    return Gateway(
        "Portkey gateway",
        lambda port, _, __: ["node", script, "--headless", f"--port={port}"],
        lambda port, _, __: f"http://127.0.0.1:{port}/v1/chat/completions",
        lambda up, kind: {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{up}{path_of(kind)}",
        },
        scale=0.5,
        environment={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
    )


# ---------------------------------------------------------------------- processes


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


@contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def cpu_of(pid: int) -> float:
    total = 0.0
    for each in tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def memory_of(pid: int) -> float:
    """Resident megabytes."""
    total = 0
    for each in tree(pid):
        line = next(line for line in Path(f"/proc/{each}/status").read_text().splitlines() if line.startswith("VmRSS"))
        total += int(line.split()[1])
    return total / 1024


def wait_for(port: int, child: subprocess.Popen[str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if child.poll() is not None:
            raise SystemExit(f"a gateway ended with status {child.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("a gateway did not listen in time")


# ---------------------------------------------------------------------- the run


def plan(gateway: Gateway, upstream: int, kind: str, streams: int, at_once: int) -> dict[str, Any]:
    streams = max(at_once, int(streams * gateway.scale))
    least = HAND_OVER[kind][0]  # events in an answer: a gateway that cuts them short has not done the work
    return {
        "streams": streams,
        "at_once": at_once,
        "least": least,
        "model": gateway.model(kind),
        "headers": gateway.headers(upstream, kind),
    }


def asked(url: str, what: dict[str, Any]) -> dict[str, Any]:
    command = pinned(1, [sys.executable, str(HERE / "load.py"), "clients", url, json.dumps(what)])
    done: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if done["bad"]:
        print(f"  {done['bad']} answers were not as sent", file=sys.stderr)
    return done


def idle_memory(gateway: Gateway, url: str, upstream: int, pid: int, streams: int) -> float:
    """Kilobytes per stream that is open and waits."""
    before = memory_of(pid)
    what = {**plan(gateway, upstream, "idle", 1, 1), "streams": streams, "at_once": streams, "idle": 8}
    command = pinned(1, [sys.executable, str(HERE / "load.py"), "clients", url, json.dumps(what)])
    with process(command, stdout=subprocess.PIPE) as clients:
        assert clients.stdout is not None
        clients.stdout.readline()
        return (memory_of(pid) - before) * 1024 / streams


class Running(NamedTuple):
    """A gateway that runs; `pid` and `port` are 0 where there is none."""

    gateway: Gateway
    port: int
    pid: int
    laps: dict[str, list[float]]

    def ask(self, upstream: int, kind: str, streams: int, at_once: int) -> dict[str, Any]:
        what = plan(self.gateway, upstream, kind, streams, at_once)
        return asked(self.gateway.url(self.port, upstream, kind), what)

    def lap(self, upstream: int, effort: float) -> None:
        """One round of all figures but memory."""
        cuts = quantiles(self.ask(upstream, "low", int(100 * effort), 1)["firsts"], n=100)
        self.note("first_p50", cuts[49])
        self.note("first_p99", cuts[98])
        at_once = max(2, int(100 * self.gateway.scale))
        for kind, streams in (("flat", int(500 * effort)), ("paced", int(100 * effort))):
            cpu = cpu_of(self.pid) if self.pid else 0
            done = self.ask(upstream, kind, streams, at_once)
            if kind == "paced":
                self.note("lag_p50", done["lags"][49])
                self.note("lag_p99", done["lags"][98])
            if self.pid:
                time.sleep(0.5)  # what is done after the last byte is part of the price
                self.note(kind, (cpu_of(self.pid) - cpu) * 1e6 / done["events"])

    def note(self, what: str, figure: float) -> None:
        self.laps.setdefault(what, []).append(figure)

    def figures(self) -> dict[str, Any]:
        return {"gateway": self.gateway.name, **{what: median(laps) for what, laps in self.laps.items()}}


@contextmanager
def started(gateway: Gateway, upstream: int, scratch: Path) -> Iterator[Running]:
    if gateway.start is None:
        yield Running(gateway, 0, 0, {})
        return
    port = free_port()
    own = scratch / gateway.name.split()[0].strip(",").lower()
    own.mkdir()
    with (
        open(own / "log", "w") as log,
        process(
            pinned(0, gateway.start(port, upstream, own)),
            env={**os.environ, **gateway.environment},
            stdout=log,
            stderr=log,
        ) as child,
    ):
        wait_for(port, child)
        yield Running(gateway, port, child.pid, {})


def beside(row: dict[str, Any], base: dict[str, Any], what: str) -> str:
    """What a gateway adds at the median and at the 99th percentile; for no gateway, in brackets, what there is."""
    at = (f"{what}_p50", f"{what}_p99")
    if row is base:
        return "({:.2f} / {:.2f})".format(*(row[each] for each in at))
    return "{:.2f} / {:.2f}".format(*(row[each] - base[each] for each in at))


def table(rows: list[dict[str, Any]]) -> str:
    base = next(row for row in rows if row["gateway"] == "direct")
    lines = [
        "| gateway | flat out, us cpu a chunk | chunks/s/core | paced, us cpu a chunk "
        "| added to a chunk p50 / p99, ms | added first chunk p50 / p99, ms | kB an idle stream |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = (
            ["–", "–", "–"]
            if row is base
            else [f"{row['flat']:.1f}", f"{1e6 / row['flat']:,.0f}", f"{row['paced']:.1f}"]
        )
        cells += [beside(row, base, "lag"), beside(row, base, "first")]
        cells.append(f"{row['idle_kb']:.1f}" if "idle_kb" in row else "–")
        lines.append(f"| {row['gateway']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", metavar="PYTHON")
    parser.add_argument("--portkey", metavar="SCRIPT")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    gateways = [direct(), bare(), ours()]
    if given.litellm:
        gateways.append(litellm(given.litellm))
    if given.portkey:
        gateways.append(portkey(given.portkey))
    rows = []
    upstream = process(pinned(1, [sys.executable, str(HERE / "load.py"), "upstream"]), stdout=subprocess.PIPE)
    with upstream as serving, tempfile.TemporaryDirectory() as scratch:
        assert serving.stdout is not None
        port = int(serving.stdout.readline())
        with ExitStack() as stack:
            running = [stack.enter_context(started(each, port, Path(scratch))) for each in gateways]
            for each in running:
                each.ask(port, "low", 20, 1)  # what is done once, is done
            for number in range(given.rounds):
                print(f"round {number + 1}", file=sys.stderr)
                for each in running:
                    each.lap(port, 0.4 if given.quick else 1.0)
            for each in running:
                figures = each.figures()
                if each.pid:
                    streams = max(50, int(1000 * each.gateway.scale))
                    url = each.gateway.url(each.port, port, "idle")
                    figures["idle_kb"] = idle_memory(each.gateway, url, port, each.pid, streams)
                rows.append(figures)
    print(table(rows))
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
