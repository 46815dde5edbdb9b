"""Where the API will listen: how it is written as a URL, and whether it can be had at all."""

import errno
import socket

from ops.errors import CannotStart


def url(host: str, port: int) -> str:
    """Return the address as a URL; an IPv6 address goes in brackets (RFC 3986, 3.2.2)."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def claim(host: str, port: int) -> int:
    """Return a port that can be bound at this moment: `port` itself, or any free one when it is 0.

    Raises:
        CannotStart: The address cannot be bound.
    """
    try:
        for family, _, _, _, where in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):  # a name may have several
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((where[0], port, *where[2:]))
                port = int(probe.getsockname()[1])
    except OSError as error:
        raise _refusal(host, port, error) from error
    return port


def _refusal(host: str, port: int, error: OSError) -> CannotStart:
    if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return CannotStart(f"This machine has no address {host}; take one of its own with --host.")
    if error.errno == errno.EADDRINUSE:
        return CannotStart(f"Port {port} on {host} is in use; take another with --port, or stop what uses it.")
    if error.errno == errno.EACCES:
        return CannotStart(f"Port {port} may not be bound: ports below 1024 need rights; take another with --port.")
    return CannotStart(f"Port {port} on {host} cannot be bound ({error.strerror}); take others with --host and --port.")
