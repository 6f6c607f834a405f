"""Which reverse proxies are believed about the callers for whom they send requests."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network


def both_families(networks: Iterable[str]) -> list[str]:
    """The networks, and how an IPv6 socket that also takes IPv4 writes them: `10.0.0.0/8` is
    `::ffff:10.0.0.0/104`, too.
    """
    found = []
    for text in networks:
        network = ip_network(text)
        found.append(str(network))
        if isinstance(network, IPv4Network):
            found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return found
