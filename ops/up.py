"""`lensmith up`: lock the data directory, migrate, start every part, keep them up, stop them all."""

from contextlib import ExitStack

from rich.console import Console

from core.process import free_port
from core.settings import Settings
from ops import address, data
from ops.backup import forget_killed
from ops.errors import CannotStart
from ops.migrate import migrate
from ops.parts import Ports, plan
from ops.processes import Running, start_all, stop_all
from ops.signals import stop_on_signals
from ops.watch import wait_until_up, watch


def up(settings: Settings, console: Console) -> int:
    """Run the service until Ctrl-C, SIGTERM or a hang-up; return the exit status.

    Raises:
        CannotStart: Something outside of the parts stands in the way.
    """
    if settings.exposure is not None:
        raise CannotStart(settings.exposure)
    stop = stop_on_signals()
    layout = settings.layout
    data.make(layout)
    with data.locked(layout), ExitStack() as stack:
        ports = _ports(settings)
        data.sweep(layout, own_storage=settings.storage_url is None)
        forget_killed(layout)
        kind = migrate(settings)
        console.print(f"[green]✓[/green] {'database':<11} {kind}, migrated")
        url = address.url(settings.host, ports.api)
        running: list[Running] = []
        stack.callback(stop_all, running, console)
        start_all(plan(layout, url=url, ports=ports, environment=_environment(settings, ports)), layout, running)
        if not wait_until_up(url, running, console, stop):
            return 0 if stop.is_set() else 1
        console.print(f"\n[bold]Lensmith is up[/bold] at {url}  (docs: {url}/docs; Ctrl-C stops)\n")
        return watch(running, console, stop)


def _ports(settings: Settings) -> Ports:
    """Choose the ports; a broker or a serving that the user named is theirs, even at the default address."""
    return Ports(
        api=address.claim(settings.host, settings.port),
        valkey=None if "redis_url" in settings.model_fields_set else free_port(),
        serving=None if "serving_url" in settings.model_fields_set else free_port(),
    )


def _environment(settings: Settings, ports: Ports) -> dict[str, str]:
    """Return the variables that make every part see the same service."""
    variables = {
        "LENSMITH_DATA_DIR": str(settings.layout.root),
        "LENSMITH_HOST": settings.host,
        "LENSMITH_PORT": str(ports.api),
    }
    if ports.valkey is not None:
        variables["LENSMITH_REDIS_URL"] = f"redis://127.0.0.1:{ports.valkey}/0"
    if ports.serving is not None:
        variables["LENSMITH_SERVING_URL"] = f"http://127.0.0.1:{ports.serving}"
    return variables
