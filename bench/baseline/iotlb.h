/* The cache of src/memory/iotlb.ts: interned tags, places and page sizes alike, addresses as C has them. */
#include "bench.h"

#define WAYS 4
#define TAGS 4096
#define SPACES 1024
/* Tags of places; those of a set are taken in order. */
#define NEVER_USED 0
#define FORGOTTEN ((uint32_t)-1)
#define RANGE_PAGES 4096
#define SALT 0x1b873593u
#define NO_CONTEXT 0xffffffffu
#define GRANTED 0xfffull

struct entry {
	uint64_t key; /* address >> lg2, and lg2 in bits 63:56 */
	uint64_t delta; /* and the permission in bits 11:0 */
	uint32_t tag, tag_at;
	uint64_t unused;
};

struct known {
	uint32_t space, context, tag, unused;
};

static struct iotlb {
	struct entry *entries;
	uint32_t mask;
	struct known known[TAGS];
	uint32_t old_tags[SPACES], last_tag, victim;
	uint32_t space, context, tag, tag_at, salt;
	int sizes[64], size_count, first_size;
	uint64_t out, hits;
	uint32_t permission;
} tlb;

/* By space: a translation that is the same in all of its contexts may be in the cache. */
static uint8_t globals[SPACES];

static inline int is_old(uint32_t tag_at, uint32_t tag)
{
	return !tag || tlb.known[tag_at].tag != tag || (int32_t)tag <= (int32_t)tlb.old_tags[tlb.known[tag_at].space % SPACES];
}

static __attribute__((noinline)) void select_tag(uint32_t space, uint32_t context)
{
	uint32_t set = (space * 0x61c88647u + context) % (TAGS / WAYS) * WAYS, at = TAGS;
	for (uint32_t i = set; i < set + WAYS; i++) {
		if (tlb.known[i].space == space && tlb.known[i].context == context) {
			at = i;
			break;
		}
		if (at == TAGS && is_old(i, tlb.known[i].tag))
			at = i;
	}
	if (at == TAGS)
		at = set + (tlb.victim = (tlb.victim + 1) % WAYS);
	struct known *known = &tlb.known[at];
	if (known->space != space || known->context != context || (int32_t)known->tag <= (int32_t)tlb.old_tags[space % SPACES])
		*known = (struct known){ space, context, ++tlb.last_tag, 0 };
	tlb.space = space;
	tlb.context = context;
	tlb.tag = known->tag;
	tlb.tag_at = at;
	tlb.salt = tlb.tag * SALT;
}

static inline void select_context(uint32_t space, uint32_t context)
{
	if (space != tlb.space || context != tlb.context)
		select_tag(space, context);
}

static inline void make_iotlb(uint32_t capacity)
{
	tlb.first_size = 12;
	select_tag(0, 0);
	tlb.entries = allocate(capacity * sizeof(struct entry));
	tlb.mask = capacity - 1;
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
	tlb.out = address ^ (e->delta & ~GRANTED);
	tlb.permission = e->delta & GRANTED;
	tlb.hits++;
	return lg2;
}

static __attribute__((noinline)) int lookup_elsewhere(uint64_t address, uint32_t wish)
{
	for (int i = 0; i < tlb.size_count; i++) {
		uint64_t key = key_of(address, tlb.sizes[i]);
		uint32_t first = home(key);
		for (int way = 0; way < WAYS; way++) {
			struct entry *e = &tlb.entries[(first + way) & tlb.mask];
			if (!e->key)
				break;
			if (e->key != key || e->tag != tlb.tag || (e->delta & wish) != wish)
				continue;
			tlb.first_size = tlb.sizes[i];
			return answer(e, address, tlb.sizes[i]);
		}
	}
	return -1;
}

static inline int lookup(uint32_t space, uint32_t context, uint64_t address, uint32_t wish)
{
	select_context(space, context);
	int lg2 = tlb.first_size;
	uint64_t key = key_of(address, lg2);
	struct entry *e = &tlb.entries[home(key)];
	if (e->key == key && e->tag == tlb.tag && (e->delta & wish) == wish)
		return answer(e, address, lg2);
	return lookup_elsewhere(address, wish);
}

static inline struct entry *place(uint64_t key)
{
	uint32_t first = home(key);
	struct entry *place = 0;
	for (int way = 0; way < WAYS; way++) {
		struct entry *e = &tlb.entries[(first + way) & tlb.mask];
		if (e->tag == tlb.tag) {
			if (e->key == key)
				return e;
		} else if (!place && is_old(e->tag_at, e->tag))
			place = e;
	}
	return place ? place : &tlb.entries[(first + (tlb.victim = (tlb.victim + 1) % WAYS)) & tlb.mask];
}

static __attribute__((noinline)) void fill(uint32_t space, uint32_t context, uint64_t address, int lg2, uint64_t out, uint32_t permission)
{
	select_context(space, context);
	uint64_t key = key_of(address, lg2);
	*place(key) = (struct entry){ key, ((address ^ out) & ~GRANTED) | permission, tlb.tag, tlb.tag_at, 0 };
	for (int i = 0; i < tlb.size_count; i++)
		if (tlb.sizes[i] == lg2)
			return;
	tlb.sizes[tlb.size_count++] = lg2;
}

static inline void invalidate_space(uint32_t space)
{
	tlb.old_tags[space % SPACES] = tlb.last_tag;
	globals[space % SPACES] = 0;
	select_tag(tlb.space, tlb.context);
}

/* A context that may have translations here, or 0: an invalidation has nothing to do. */
static inline struct known *find_context(uint32_t space, uint32_t context)
{
	uint32_t set = (space * 0x61c88647u + context) % (TAGS / WAYS) * WAYS;
	for (uint32_t i = set; i < set + WAYS; i++) {
		if (tlb.known[i].tag == NEVER_USED)
			return 0;
		if (tlb.known[i].space == space && tlb.known[i].context == context)
			return (int32_t)tlb.known[i].tag > (int32_t)tlb.old_tags[space % SPACES] ? &tlb.known[i] : 0;
	}
	return 0;
}

static inline void invalidate_context(uint32_t space, uint32_t context)
{
	struct known *known = find_context(space, context);
	if (!known)
		return;
	known->tag = FORGOTTEN;
	select_tag(tlb.space, tlb.context);
}

/* A page has one place, and none after one where nothing has lain. */
static inline void drop(uint64_t key, uint32_t tag)
{
	uint32_t low = key, first = low + (low >> 9) + (low >> 18) + (uint32_t)(key >> 32) + tag * SALT;
	for (int way = 0; way < WAYS; way++) {
		struct entry *e = &tlb.entries[(first + way) & tlb.mask];
		if (e->key == key && e->tag == tag) {
			e->tag = 0;
			return;
		}
		if (!e->key)
			return;
	}
}

/* Page frame numbers. */
static inline void invalidate_range(uint32_t space, uint32_t context, uint64_t first, uint64_t last)
{
	if (globals[space % SPACES]) {
		invalidate_space(space);
		return;
	}
	struct known *known = tlb.size_count ? find_context(space, context) : 0;
	if (!known)
		return;
	uint32_t tag = known->tag;
	for (int i = 0; i < tlb.size_count; i++) {
		int up = tlb.sizes[i] - 12;
		if ((last >> up) - (first >> up) >= RANGE_PAGES) {
			invalidate_context(space, context);
			return;
		}
		for (uint64_t page = first >> up; page <= last >> up; page++)
			drop(page | (uint64_t)tlb.sizes[i] << 56, tag);
	}
}
