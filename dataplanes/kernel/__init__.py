"""Thin wrappers of the kernel's own facilities: namespaces, netlink, sysctls, iptables, IPVS. No policy here."""
