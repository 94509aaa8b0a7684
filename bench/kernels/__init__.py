"""The kernel under test: the host's, or one that boots in a guest. Both run a command, and have the same interface."""

from bench.kernels.base import Command, Kernel
from bench.kernels.choice import expand, list_kernels, resolve
from bench.kernels.packages import headers
from bench.kernels.shares import not_shared

__all__ = ["Command", "Kernel", "expand", "headers", "list_kernels", "not_shared", "resolve"]
