/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The way over the bridge, to whatever has an address on the network. */

BPF_F_TABLE("array", u32, u32, bridge, 1, 0); /* the bridge's index */

static __always_inline int over_the_bridge(u32 address)
{
	u32 zero = 0;
	u32 *device = bridge.lookup(&zero);

	return device ? to_neighbour(*device, address) : TC_ACT_SHOT;
}
