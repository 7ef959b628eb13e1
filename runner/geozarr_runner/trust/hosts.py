"""The hosts that an address leads to: those of this machine and of its cloud."""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from urllib.parse import unquote, urlsplit

# Where machines of a cloud ask who they are, and get keys.
_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_METADATA_NUMBERS = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
_HOLD_IPV4 = tuple(map(ipaddress.ip_network, ("::/96", "64:ff9b::/96")))


def unfit(host: str, base: str | None) -> str | None:
    """Return why a host may not be asked that a document names; None where it may.

    Parameters
    ----------
    base
        The host that the document was read from; None for a document of this machine.
    """
    number = _number(host)
    if host in _METADATA_HOSTS or (number is not None and (number.is_link_local or number in _METADATA_NUMBERS)):
        return "only this machine's cloud or network is there"
    from_elsewhere = base is not None and not _is_loopback(base)
    return "it is a service of this machine" if from_elsewhere and _is_loopback(host) else None


def host_of(address: str) -> str:
    """Return the host of an address, in one spelling; empty where it has none."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return ""
    return unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").rstrip(".").lower()


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # 2852039166, 0xa9.254.0251.254 and the like
        except (OSError, ValueError):
            return None
    if isinstance(number, ipaddress.IPv6Address):
        if number.ipv4_mapped:
            return number.ipv4_mapped
        if any(number in network for network in _HOLD_IPV4) and int(number) > 1:
            return ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    return number


def _is_loopback(host: str) -> bool:
    number = _number(host)
    named_so = host == "localhost" or host.endswith(".localhost")
    return named_so or (number is not None and (number.is_loopback or number.is_unspecified))
