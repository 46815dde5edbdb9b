"""What may be fetched at all: no server is needed to refuse."""

import socket
from ipaddress import ip_address

import pytest

from ingest.guard import Guard, is_global, resolve
from ingest.issues import FetchFailed, Rule

GLOBAL = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
NOT_GLOBAL = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",  # carrier-grade NAT
    "169.254.169.254",  # metadata of every cloud
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # IPv4-translated
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::808:808",  # NAT64 of a network's own
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2001:0:808:808::1",  # Teredo
    "2001:db8::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", GLOBAL)
def test_an_address_of_the_public_internet_is_global(address):
    assert is_global(ip_address(address))


@pytest.mark.parametrize("address", NOT_GLOBAL)
def test_every_other_address_is_not_also_when_another_wraps_it(address):
    assert not is_global(ip_address(address))


def never(host, port):
    raise AssertionError(f"asked for {host}")


@pytest.mark.parametrize(
    "url",
    [
        "http://images.test/a.png",
        "ftp://images.test/a.png",
        "file:///etc/passwd",
        "https:///a.png",
        "http://images.test/a.png?key=secret",
        "https://me:secret@images.test/a.png",
        "https://me@images.test/a.png",
        "https://images.test\\@127.0.0.1/a.png",
        "https://127.0.0.1\\.images.test/a.png",
        "https://images.test/a\\b.png",
        "https://images.test/a\n.png",
        "https://images.test/gnp.\u202egpj.a",
        "https://images.test/a\x00.png",
        "https://images.test:22/a.png",
        "https://images.test:80/a.png",
        "https://images.test:0/a.png",
        "https://images.test:99999/a.png",
        "https://images.test:x/a.png",
        "https://0x7f000001/a.png",
        "https://0x7f.1/a.png",
        "https://2130706433/a.png",
        "https://127.1/a.png",
        "https://0177.0.0.1/a.png",
        "https://127.0.0.1./a.png",
        "https://127.0.0.256/a.png",
        "https://%31%32%37.0.0.1/a.png",
        "https://images test/a.png",
        "https://[::1%25lo]/a.png",
        "https://[::ffff:127.0.0.1%25lo]/a.png",
        "https://[no]/a.png",
        "https://\uff11\uff12\uff17.0.0.1/a.png",
    ],
)
def test_a_url_of_the_wrong_shape_is_refused_before_anything_is_resolved(url):
    with pytest.raises(FetchFailed) as caught:
        Guard(resolve=never).parse(url)
    assert caught.value.finding.rule is Rule.URL_FORBIDDEN
    assert "secret" not in caught.value.finding.message


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://Images.test/a.png?x=1#part", "images.test", None),
        ("https://images.test:443/a.png", "images.test", None),
        ("https://images.test:8443/a.png", "images.test", 8443),
        ("https://8.8.8.8/a.png", "8.8.8.8", None),
        ("https://[2606:2800:220:1::1]/größe a.png", "2606:2800:220:1::1", None),
        ("https://bücher.test/a.png", "xn--bcher-kva.test", None),
    ],
)
def test_a_plain_https_url_is_taken_in_parts(url, host, port):
    parsed = Guard(resolve=never).parse(url)
    assert (parsed.raw_host.decode(), parsed.port, parsed.fragment) == (host, port, "")


@pytest.mark.parametrize("address", NOT_GLOBAL)
def test_an_address_in_the_url_is_looked_at_without_a_name_server(address):
    with pytest.raises(FetchFailed) as caught:
        Guard(resolve=never).addresses(address, 443)
    assert caught.value.finding.rule is Rule.URL_FORBIDDEN


@pytest.mark.parametrize("answer", [["93.184.216.34", "10.0.0.1"], ["10.0.0.1", "93.184.216.34"], ["fc00::1"], []])
def test_one_address_that_is_not_global_refuses_the_name_and_is_not_told(answer):
    guard = Guard(resolve=lambda _host, _port: [ip_address(address) for address in answer])
    with pytest.raises(FetchFailed) as caught:
        guard.addresses("mixed.test", 443)
    assert caught.value.finding.rule is Rule.URL_FORBIDDEN
    assert caught.value.finding.message == '"mixed.test" has an address that is not on the public internet.'


@pytest.mark.parametrize("error", [socket.gaierror(-2, "no such name"), UnicodeError("label too long")])
def test_a_name_that_nobody_knows_is_unreachable(error):
    def fail(host, port):
        raise error

    with pytest.raises(FetchFailed) as caught:
        Guard(resolve=fail).addresses("gone.test", 443)
    assert caught.value.finding.rule is Rule.URL_UNREACHABLE


def test_the_system_resolves_localhost_to_loopback_only():
    addresses = resolve("localhost", 443)
    assert addresses
    assert all(address.is_loopback for address in addresses)
