"""Thin wrappers of the kernel's own facilities: namespaces, netlink, sysctls, iptables, IPVS. They hold no policy."""

from dataplanes.kernel.lazy import import_lazily

# pyroute2/__init__.py imports the whole package, with asyncio, ssl and sqlite3: two thirds of all that we import, and
# every python in a guest would pay for it.
import_lazily("pyroute2")
