"""Thin wrappers of the kernel's own facilities: namespaces, netlink, sysctls, iptables, IPVS. They hold no policy."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def _pyroute2_by_need() -> None:
    """Let `import pyroute2.netlink` import only that module.

    pyroute2/__init__.py imports the whole package, with asyncio, ssl and sqlite3: two thirds of all that we import, and
    every python in a guest would pay for it. It is run when something of it is asked for by name.
    """
    spec = find_spec("pyroute2")
    loader = spec and spec.loader
    if "pyroute2" in sys.modules or not spec or not loader:
        return
    package = module_from_spec(spec)

    def ask(name: str) -> Any:
        if find_spec(f"pyroute2.{name}"):  # `from pyroute2 import config` asks before it looks for a module
            return import_module(f"pyroute2.{name}")
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = ask  # PEP 562
    sys.modules["pyroute2"] = package


_pyroute2_by_need()
