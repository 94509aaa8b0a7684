/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The ruleset that a packet meets, and the rule of it that acts on the packet.
 *
 * The kernel does not tell which rule it evaluates. But it evaluates what is in the rule: an expression of nft, or a
 * target of iptables. So the rule is that in whose memory this is. */

#define MOST_STEPS 128 /* chains and rules that are looked at */
#define BLOB_HEAD 8    /* struct nft_rule_blob: its size, then its rules */
#define RULE_HEAD                                                                                                      \
	8 /* struct nft_rule_dp: a bit for the end, 12 for the length, 42 for the handle; then the expressions */
#define VERDICT_REGISTER 24 /* of an immediate expression: operations, 16 bytes of data, then the register */
#define DROP 0

/* The name of the ruleset that a function evaluates: an nft chain with its table, or a table of iptables. */
static __always_inline void name_ruleset(struct arguments *arguments, struct layout *layout, struct place *place,
					 struct event *event)
{
	u64 chain = argument(arguments, place->chain), table = argument(arguments, place->table);
	u64 ruleset = chain ? chain : table;

	if (ruleset)
		evaluated.update(&event->skb, &ruleset);
	if (chain) {
		bpf_probe_read_kernel_str(event->name, sizeof(event->name), (void *)word(chain + layout->chain_name));
		table = word(chain + layout->chain_table);
		bpf_probe_read_kernel_str(event->table, sizeof(event->table), (void *)word(table + layout->table_name));
	} else if (table) {
		bpf_probe_read_kernel_str(event->table, sizeof(event->table), (void *)(table + layout->xt_table_name));
	}
}

/* Returns the first rule of a chain that has an expression; 0 if it is in another chain. Addresses are not compared, but a
 * distance that is not used again: the verifier would follow what each comparison tells of them through the loop. */
static __always_inline u64 rules_with(u64 rules, u64 expression)
{
	return expression - rules - BLOB_HEAD < word(rules) ? rules + BLOB_HEAD : 0;
}

static __always_inline u64 rules_of(struct layout *layout, u64 chain, u64 expression)
{
	u64 rules = rules_with(word(chain + layout->chain_rules), expression);

	return rules ? rules : rules_with(word(chain + layout->chain_next_rules), expression);
}

/* Finds the rule that has an expression: in the base chain, or in another of its table to which a rule has jumped.
 *
 * One loop goes through the chains until it has found the right one, and then through its rules: the verifier would follow
 * a second loop anew from each turn in which the first one may end. */
static __always_inline void name_nft_rule(struct layout *layout, u64 chain, u64 expression, struct event *event)
{
	u64 table = word(chain + layout->chain_table), chains = table + layout->table_chains;
	u64 next = word(chains), rule = rules_of(layout, chain, expression), head, size;

	for (int n = 0; n < MOST_STEPS; n++) {
		if (!rule) {
			if (next == chains)
				return;
			chain = next - layout->chain_list;
			rule = rules_of(layout, chain, expression);
			next = word(next);
			continue;
		}
		head = word(rule);
		size = RULE_HEAD + (head >> 1 & 0xfff);
		if (head & 1)
			return;
		if (expression - rule < size) {
			event->rule = head >> 13 & ((1ULL << 42) - 1);
			break;
		}
		rule += size;
	}
	bpf_probe_read_kernel_str(event->name, sizeof(event->name), (void *)word(chain + layout->chain_name));
	bpf_probe_read_kernel_str(event->table, sizeof(event->table), (void *)word(table + layout->table_name));
}

/* A rule of iptables is known by the place of its target in the table. */
static __always_inline void name_iptables_rule(struct layout *layout, u64 table, u64 parameters, struct event *event)
{
	u64 private = word(table + layout->xt_private), target = word(parameters + layout->target_data);
	u64 entries = private + layout->xt_entries;

	if (target <= entries || target >= entries + half(private + layout->xt_size))
		return;
	event->rule = target - entries;
	bpf_probe_read_kernel_str(event->table, sizeof(event->table), (void *)(table + layout->xt_table_name));
}

/* Returns 1 if an expression can act on a packet. One that loads a value and is no verdict does not. */
static __always_inline int acts(u64 expression, int immediate)
{
	return !immediate || (!byte(expression + VERDICT_REGISTER) && half(expression + 8) == DROP);
}
