/* The cache of src/memory/iotlb.ts: interned tags, places and page sizes alike, addresses as C has them. */
#include "bench.h"

#define WAYS 4
#define TAGS 4096
#define SPACES 1024

struct entry {
	uint64_t key; /* address >> lg2, and lg2 in bits 63:56 */
	uint64_t delta;
	uint32_t tag, tag_at, info, unused;
};

struct known {
	uint32_t space, context, tag, unused;
};

static struct iotlb {
	struct entry *entries;
	uint32_t mask;
	struct known known[TAGS];
	uint32_t old_tags[SPACES], last_tag;
	uint32_t space, context, tag, tag_at, salt;
	int sizes[64], size_count, first_size;
	uint64_t out;
	uint32_t permission, type;
} tlb;

static __attribute__((noinline)) void select_tag(uint32_t space, uint32_t context)
{
	uint32_t set = (space * 0x61c88647u + context) % (TAGS / WAYS) * WAYS, at = set;
	while (at < set + WAYS && tlb.known[at].tag && (tlb.known[at].space != space || tlb.known[at].context != context))
		at++;
	if (at == set + WAYS)
		abort(); /* this benchmark has few contexts */
	if (tlb.known[at].tag <= tlb.old_tags[space % SPACES])
		tlb.known[at] = (struct known){ space, context, ++tlb.last_tag, 0 };
	tlb.space = space;
	tlb.context = context;
	tlb.tag = tlb.known[at].tag;
	tlb.tag_at = at;
	tlb.salt = tlb.tag * 0x1b873593u;
}

static inline uint64_t key_of(uint64_t address, int lg2)
{
	return address >> lg2 | (uint64_t)lg2 << 56;
}

static inline uint32_t home(uint64_t key)
{
	uint32_t low = key;
	return (low + (low >> 9) + (low >> 18) + (uint32_t)(key >> 32) + tlb.salt) & tlb.mask;
}

static inline int answer(const struct entry *e, uint64_t address, int lg2)
{
	tlb.out = address ^ e->delta;
	tlb.permission = e->info & 0xff;
	tlb.type = e->info >> 8;
	return lg2;
}

static __attribute__((noinline)) int lookup_elsewhere(uint64_t address, uint32_t wish)
{
	for (int i = 0; i < tlb.size_count; i++) {
		uint64_t key = key_of(address, tlb.sizes[i]);
		uint32_t first = home(key);
		for (int way = 0; way < WAYS; way++) {
			struct entry *e = &tlb.entries[(first + way) & tlb.mask];
			if (e->key != key || e->tag != tlb.tag || (e->info & wish) != wish)
				continue;
			tlb.first_size = tlb.sizes[i];
			return answer(e, address, tlb.sizes[i]);
		}
	}
	return -1;
}

static inline int lookup(uint32_t space, uint32_t context, uint64_t address, uint32_t wish)
{
	if (space != tlb.space || context != tlb.context)
		select_tag(space, context);
	int lg2 = tlb.first_size;
	uint64_t key = key_of(address, lg2);
	struct entry *e = &tlb.entries[home(key)];
	if (e->key == key && e->tag == tlb.tag && (e->info & wish) == wish)
		return answer(e, address, lg2);
	return lookup_elsewhere(address, wish);
}

static void fill(uint32_t space, uint32_t context, uint64_t address, int lg2, uint64_t out, uint32_t info)
{
	if (space != tlb.space || context != tlb.context)
		select_tag(space, context);
	uint64_t key = key_of(address, lg2);
	uint32_t first = home(key), way = 0;
	while (way < WAYS && tlb.entries[(first + way) & tlb.mask].tag)
		way++;
	if (way == WAYS)
		abort(); /* the pages of this benchmark all have a place */
	tlb.entries[(first + way) & tlb.mask] = (struct entry){ key, address ^ out, tlb.tag, tlb.tag_at, info, 0 };
	for (int i = 0; i < tlb.size_count; i++)
		if (tlb.sizes[i] == lg2)
			return;
	tlb.sizes[tlb.size_count++] = lg2;
}

static uint32_t *order, order_length, at;

static void setup(int argc, char **argv)
{
	if (argc < 2)
		exit(2);
	uint32_t pages = atoi(argv[0]);
	int is_random = !strcmp(argv[1], "random");
	operations = 1 << 13;
	tlb.first_size = 12;
	select_tag(0, 0);
	tlb.entries = allocate(2 * pages * sizeof(struct entry));
	tlb.mask = 2 * pages - 1;
	for (uint32_t page = 0; page < pages; page++) {
		uint64_t out = (uint64_t)(page >> 8) << 32 | (page * 0x9e3779b1u & ~0xfffu);
		fill(7, 2, 5ull << 32 | (uint64_t)page << 12, 12, out, 3);
	}
	order_length = pages > operations ? pages : operations;
	order = allocate(order_length * sizeof(*order));
	for (uint32_t i = 0; i < order_length; i++)
		order[i] = (is_random ? random32() : i) & (pages - 1);
}

static void before(void)
{
}

static uint32_t batch(void)
{
	uint32_t sum = 0;
	for (uint32_t i = at; i < at + operations; i++) {
		int lg2 = lookup(7, 2, 5ull << 32 | (uint64_t)order[i] << 12, 1);
		sum += lg2 + (uint32_t)tlb.out + (uint32_t)(tlb.out >> 32);
	}
	at = at + operations == order_length ? 0 : at + operations;
	return sum;
}
