"""Which addresses lie on the public internet: the others are never connected to on a client's behalf."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's special-purpose registry, written out: `ipaddress.is_global` depends on the patch version of Python, and lets
# 6to4, NAT64, Teredo relays and site-local addresses pass on some.
_BLOCKED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host agent: a public number that answers only from inside
            "169.254.0.0/16",  # link-local, cloud metadata
            "172.16.0.0/12",
            "192.0.0.0/24",  # IETF protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all that IANA hands out; mapped, NAT64, ULA, ... lie outside
_BLOCKED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address inside
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: Address) -> bool:
    """Whether ``address`` is global unicast: no private, local, special or embedding range of IANA's registries.

    NAT64 (``64:ff9b::/96``) counts as not public: behind a DNS64, hosts without IPv6 cannot be fetched from.
    Source: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates).
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _BLOCKED_V6)
