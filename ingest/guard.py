"""Which URLs may be fetched for a stranger: the shape of the URL, then every address that its name stands for.

A data set may name any URL, and we sit where its author does not: beside databases, metadata services (169.254.169.254)
and admin pages that answer whoever is inside. So a URL has one parser (httpx2's, whose parts are what is dialled), and a
name is resolved once, by whoever dials; see `ingest.remote`. Facts: reliability, section 5, SSRF.
"""

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx2

from ingest.issues import FetchFailed, Finding, Rule, shown

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], list[Address]]

_HTTPS = frozenset({"https"})
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9])?", re.ASCII)
# What `inet_aton` reads as an address though it is none: 0x7f000001, 2130706433, 127.1 (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)
_FIRST_FREE_PORT = 1024
_UNICAST = IPv6Network("2000::/3")  # the only part of IPv6 that is routed on the public internet
_NAT64 = IPv6Network("64:ff9b::/96")
_RELAYS = IPv4Network("192.88.99.0/24")  # 6to4 anycast, withdrawn (RFC 7526)
_OTHER_WAY = "Put the image in as a data: URL, or upload a zip that holds it and write its path."


def is_global(address: Address) -> bool:
    """Tell whether an address is on the public internet, and so is the IPv4 address that it may wrap."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and address not in _RELAYS
    inner = _wrapped(address)
    if inner is not None and not is_global(inner):
        return False
    if address in _NAT64 or address.ipv4_mapped is not None:
        return True
    return address in _UNICAST and (address.is_global or address.sixtofour is not None)


def resolve(host: str, port: int) -> list[Address]:
    """Return every address of a name, in the order in which the system would try them.

    How long that takes is the system's to say (`timeout` in resolv.conf); it counts, but it cannot be cut short.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What may be fetched. The defaults are those of a service; tests and intranets may give others."""

    schemes: frozenset[str] = _HTTPS
    is_allowed: Callable[[Address], bool] = is_global
    resolve: Resolve = resolve
    tls: ssl.SSLContext = field(default_factory=httpx2.create_ssl_context)

    def parse(self, url: str) -> httpx2.URL:
        """Return a URL in parts; raises `FetchFailed` as `parse_url`."""
        return parse_url(url, self.schemes)

    def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, all of them allowed: one that is not refuses the others too.

        Raises:
            FetchFailed: an address may not be dialled, or there is none. The address is not said: names that only
                resolve inside our network would tell a stranger how it looks.
        """
        literal = _literal(host)
        try:
            found = [literal] if literal is not None else self.resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise unreachable(host, "is not known to the name servers", "Check the name of the host.") from error
        if not found or not all(self.is_allowed(address) for address in found):
            raise forbidden(host, "has an address that is not on the public internet", _OTHER_WAY)
        return found


def parse_url(url: str, schemes: frozenset[str] = _HTTPS) -> httpx2.URL:
    """Return a URL in parts, without its fragment.

    Taken are names and plain addresses, on the scheme's own port or on one above 1023: below lie services that
    answer to anything (mail, shells), above run the web servers of people without root.

    Raises:
        FetchFailed: the URL may not be fetched, whatever it resolves to.
    """
    if "\\" in url or not url.isprintable():
        raise forbidden(url, "holds a backslash or a control character", "Percent-encode it.")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise forbidden(url, f"is no URL ({str(error).rstrip('.')})", "Write it as a browser shows it.") from error
    if parsed.scheme not in schemes:
        only = " and ".join(sorted(schemes))
        raise forbidden(url, f"has the scheme {shown(parsed.scheme)}; only {only} is fetched", _OTHER_WAY)
    if parsed.userinfo:
        raise forbidden(parsed.host, "is asked for with a name or a password in the URL", _OTHER_WAY)
    if parsed.port is not None and not _FIRST_FREE_PORT <= parsed.port <= 65535:
        raise forbidden(url, f"names the port {parsed.port}", "Use the scheme's own port, or one above 1023.")
    host = parsed.raw_host.decode("ascii")  # what is dialled; `parsed.host` is how it is shown
    if not _is_host(host):
        raise forbidden(url, f"has the host {shown(host)}, which is no name", "Write the name of the host.")
    return parsed.copy_with(fragment=None)


def without_query(url: str) -> str:
    """Return a URL as it may be shown: a signature in its query is a key."""
    return url.partition("?")[0]


def forbidden(what: str, why: str, fix: str) -> FetchFailed:
    """Return that something may not be fetched."""
    return FetchFailed(Finding(rule=Rule.URL_FORBIDDEN, message=f"{shown(without_query(what))} {why}.", fix=fix))


def unreachable(what: str, why: str, fix: str) -> FetchFailed:
    """Return that something could not be fetched now."""
    return FetchFailed(Finding(rule=Rule.URL_UNREACHABLE, message=f"{shown(without_query(what))} {why}.", fix=fix))


def _is_host(host: str) -> bool:
    if _literal(host) is not None:
        return "%" not in host  # a zone is a network card of ours
    return _HOST.fullmatch(host) is not None and _NUMBER.fullmatch(host) is None


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
