/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The services, which both programs read. `services` maps a VIP to its number of turns; `turns` maps a VIP and a turn
 * to a backend. Addresses are in network order. */

#include <uapi/linux/bpf.h>

/* BPF_F_NO_PREALLOC: only existing elements take memory. A replaced element lives until the RCU grace period has
 * passed. */
#define NO_PREALLOC 1

struct service {
	u32 turns; /* 0: the service has no backend for new connections */
	u32 epoch; /* the generation of `turns` that is in force */
	u64 next;
};

struct turn {
	u32 vip;
	u32 epoch;
	u32 number;
};

struct pair {
	u32 vip;
	u32 backend;
};

BPF_F_TABLE("hash", u32, struct service, services, 1, NO_PREALLOC);
BPF_F_TABLE("hash", struct turn, u32, turns, 1, NO_PREALLOC);
BPF_F_TABLE("hash", struct pair, u64, counts, 1, NO_PREALLOC);

enum choice { NO_SERVICE, NO_BACKEND, CHOSEN };

/* Chooses the backend whose turn it is. It tries twice, because userspace deletes the turns of an old epoch once the
 * new epoch is in force, and may do so between the two lookups. */
static __always_inline enum choice choose(u32 vip, u32 *backend)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		struct service *service = services.lookup(&vip);

		if (!service)
			return NO_SERVICE;
		if (!service->turns)
			return NO_BACKEND;

		struct turn key = {vip, service->epoch, __sync_fetch_and_add(&service->next, 1) % service->turns};
		u32 *found = turns.lookup(&key);

		if (found) {
			struct pair pair = {vip, *found};
			u64 *count = counts.lookup(&pair);

			if (count)
				__sync_fetch_and_add(count, 1);
			*backend = *found;
			return CHOSEN;
		}
	}
	return NO_BACKEND;
}
