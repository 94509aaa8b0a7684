"""A rule in a node's own firewall that accepts the packets that a plane forwards there.

A packet must pass every chain at the forward hook: an accept in one table does not help in another. dockerd leaves
iptables' chain with the policy DROP (kubernetes/kubernetes#59656, #66103). So the rule goes to the top of each chain,
as kube-proxy's KUBE-FORWARD does. No new chain is created, because every packet would pay for it.
"""

from __future__ import annotations

from dataplanes.kernel import iptables, nft, process


class Firewall:
    """The firewall of a namespace in which the plane forwards packets from one interface to the same interface."""

    def __init__(self, name: str, interface: str) -> None:
        self.netns = name
        self._comment = f"service VIPs of {interface}"
        self._rule = f"FORWARD -i {interface} -o {interface} -j ACCEPT"
        self._nft_rule = f'iifname "{interface}" oifname "{interface}" accept comment "{self._comment}"'
        self._tables = iptables.Tables(name)
        self._chains = nft.Chains(name)
        self._seen: object = None

    def allow(self) -> None:
        """Insert the rule in every chain that does not have it yet."""
        if self._legacy() and f"-A {self._rule}" not in iptables.rules(self.netns, "filter"):
            iptables.program(self.netns, "filter", [f"-I {self._rule}"])
        for chain, handles in self._chains.forwarding(self._comment).items():
            if not handles:
                process.run(self.netns, ("nft", "insert", "rule", *chain, self._nft_rule))
        self._seen = self._look()

    def disallow(self) -> None:
        """Undo `allow`."""
        if self._legacy() and f"-A {self._rule}" in iptables.rules(self.netns, "filter"):
            iptables.program(self.netns, "filter", [f"-D {self._rule}"])
        for chain, handles in self._chains.forwarding(self._comment).items():
            for handle in handles:
                process.run(self.netns, ("nft", "delete", "rule", *chain, "handle", str(handle)))

    def intact(self) -> bool:
        """Return True if every nftables chain at the hook has our rule, and iptables has as many rules as before.

        The rules of iptables are not compared, because they would have to be read as a whole.
        """
        return self._look() == self._seen

    def close(self) -> None:
        """Close the sockets. The rules stay. Idempotent."""
        self._tables.close()
        self._chains.close()

    def _legacy(self) -> bool:
        return "filter" in self._tables.names()

    def _look(self) -> object:
        return self._tables.info("filter") if self._legacy() else b"", self._chains.forwarding(self._comment)
