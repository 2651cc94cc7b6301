/*
 * What bench/rows/virtio-map.ts does, in C: a virtio-iommu with the checks of src/virtqueue and src/target/virtio-iommu serves a kick of MAPs.
 * Argument: split or packed. Whatever these requests never bring (indirect descriptors, PROBE, ATTACH, a host to be told) ends the program.
 */
#include "memory.h"
#include "interval-tree.h"

#define REQUESTS 2048u
#define QUEUE_SIZE (2 * REQUESTS)
#define DESCRIPTORS 0x10000ull
#define DRIVER (DESCRIPTORS + 16 * QUEUE_SIZE)
#define DEVICE (DRIVER + 8 * QUEUE_SIZE)
#define BUFFERS (DEVICE + 16 * QUEUE_SIZE)
#define BUFFER_BYTES 64
#define DOMAIN 1u
#define CHAIN_LIMIT 1024
#define BATCH_LIMIT 256
#define MAPPING_LIMIT (1u << 20)
#define PFN_LIMIT (1ull << 52)

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, F_AVAIL = 1 << 7, F_USED = 1 << 15 };
enum { BROKEN = -1, EMPTY, TAKEN };
enum { T_MAP = 3, S_OK = 0, S_INVAL = 4, S_RANGE, S_NOENT, S_NOMEM = 8 };

struct map {
	uint32_t head, domain;
	uint64_t start, end, physical;
	uint32_t flags;
} __attribute__((packed));

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t low, high; /* flags and next, or ID and flags in a packed ring */
};

/* One buffer: pieces of guest memory, those that the device reads first. */
static struct chain {
	uint32_t id, entries, count, first_writable;
	uint64_t readable, writable;
	struct {
		uint64_t at, bytes;
	} pieces[CHAIN_LIMIT];
} chain;

static struct {
	uint16_t next, end, used, shown;
	uint32_t wrap, used_wrap, fresh;
} ring;

static struct range {
	struct range *following;
	uint64_t first, last;
} *reserved;

static struct domain {
	struct domain *following;
	uint32_t id, bypass;
	struct tree mappings;
} *domains[64];

static const uint64_t input_first = 0, input_last = PFN_LIMIT - 1;
static uint32_t mappings, interrupts;
static int is_packed;

static inline uint8_t *reach(uint64_t gpa, uint64_t bytes)
{
	uint64_t offset = gpa - ram.gpa;
	return offset > ram.bytes || bytes > ram.bytes - offset ? NULL : ram.host + offset;
}

static inline int load16(uint64_t gpa)
{
	uint8_t *at = reach(gpa, 2);
	return at ? __atomic_load_n((uint16_t *)at, __ATOMIC_ACQUIRE) : -1;
}

static inline int store16(uint64_t gpa, uint16_t value)
{
	uint8_t *at = reach(gpa, 2);
	if (!at)
		return -1;
	__atomic_store_n((uint16_t *)at, value, __ATOMIC_RELEASE);
	return 0;
}

static inline int load_descriptor(uint64_t gpa, struct descriptor *to)
{
	uint64_t rest;
	if (load64(gpa + 8, &rest) < 0 || load64(gpa, &to->address) < 0)
		return -1;
	to->bytes = rest;
	to->low = rest >> 32;
	to->high = rest >> 48;
	return 0;
}

static inline int add(const struct descriptor *one, int is_writable)
{
	uint32_t index = chain.count;
	if (index == CHAIN_LIMIT || (!is_writable && chain.first_writable < index))
		return -1;
	if (!one->bytes)
		return 0;
	chain.pieces[index].at = one->address;
	chain.pieces[index].bytes = one->bytes;
	chain.count++;
	if (is_writable) {
		chain.writable += one->bytes;
	} else {
		chain.readable += one->bytes;
		chain.first_writable = index + 1;
	}
	return 0;
}

static inline void clear_chain(void)
{
	chain.count = chain.first_writable = 0;
	chain.readable = chain.writable = 0;
}

static int take_split(void)
{
	if (ring.next == ring.end) {
		int idx = load16(DRIVER + 2);
		if (idx < 0 || (uint16_t)(idx - ring.next) > QUEUE_SIZE)
			return BROKEN;
		ring.end = idx;
		if (ring.next == ring.end)
			return EMPTY;
	}
	int index = load16(DRIVER + 4 + 2 * (ring.next & (QUEUE_SIZE - 1)));
	if (index < 0)
		return BROKEN;
	ring.next++;
	clear_chain();
	chain.id = index;
	for (int left = CHAIN_LIMIT; left > 0; left--) {
		struct descriptor one;
		if (index >= (int)QUEUE_SIZE || load_descriptor(DESCRIPTORS + 16 * index, &one) < 0)
			return BROKEN;
		if (one.low & F_INDIRECT)
			abort();
		if (add(&one, one.low & F_WRITE) < 0)
			return BROKEN;
		if (!(one.low & F_NEXT))
			return TAKEN;
		index = one.high;
	}
	return BROKEN;
}

static int take_packed(void)
{
	int flags = load16(DESCRIPTORS + 16 * ring.next + 14);
	if (flags < 0)
		return BROKEN;
	uint32_t available = (flags & F_AVAIL) != 0, used = (flags & F_USED) != 0;
	if (available == used || available != ring.wrap)
		return EMPTY;
	clear_chain();
	uint32_t place = ring.next;
	for (uint32_t entries = 1; entries <= CHAIN_LIMIT; entries++) {
		struct descriptor one;
		if (load_descriptor(DESCRIPTORS + 16 * place, &one) < 0)
			return BROKEN;
		if (one.high & F_INDIRECT)
			abort();
		if (add(&one, one.high & F_WRITE) < 0)
			return BROKEN;
		if (++place == QUEUE_SIZE)
			place = 0;
		if (one.high & F_NEXT)
			continue;
		chain.id = one.low;
		chain.entries = entries;
		if (ring.next + entries >= QUEUE_SIZE)
			ring.wrap ^= 1;
		ring.next = place;
		return TAKEN;
	}
	return BROKEN;
}

static int give(uint32_t written)
{
	if (!is_packed)
		return store64(DEVICE + 4 + 8 * (ring.used++ & (QUEUE_SIZE - 1)), (uint64_t)written << 32 | chain.id);
	uint64_t flags = (ring.used_wrap ? F_AVAIL | F_USED : 0) | (written ? F_WRITE : 0), at = DESCRIPTORS + 16 * ring.used + 8;
	ring.fresh += chain.entries;
	ring.used += chain.entries;
	if (ring.used >= QUEUE_SIZE) {
		ring.used -= QUEUE_SIZE;
		ring.used_wrap ^= 1;
	}
	return store64(at, flags << 48 | (uint64_t)chain.id << 32 | written);
}

static void publish(void)
{
	if (is_packed) {
		if (ring.fresh && (load16(DRIVER + 2) & 3) != 1)
			interrupts++;
		ring.fresh = 0;
		return;
	}
	if (ring.used == ring.shown)
		return;
	ring.shown = ring.used;
	store16(DEVICE + 2, ring.used);
	if (!(load16(DRIVER) & 1))
		interrupts++;
}

/* Copies what the device reads, `bytes` at most. Returns how many; negative: a piece is no RAM. */
static inline int64_t read_chain(uint8_t *to, uint64_t bytes)
{
	uint64_t done = 0;
	for (uint32_t i = 0; i < chain.first_writable && done < bytes; i++) {
		uint64_t size = chain.pieces[i].bytes < bytes - done ? chain.pieces[i].bytes : bytes - done;
		const uint8_t *from = reach(chain.pieces[i].at, size);
		if (!from)
			return -1;
		memcpy(to + done, from, size);
		done += size;
	}
	return done;
}

static inline int write_chain(const uint8_t *from, uint64_t bytes)
{
	uint64_t done = 0;
	for (uint32_t i = chain.first_writable; i < chain.count && done < bytes; i++) {
		uint64_t size = chain.pieces[i].bytes < bytes - done ? chain.pieces[i].bytes : bytes - done;
		uint8_t *to = reach(chain.pieces[i].at, size);
		if (!to)
			return -1;
		memcpy(to, from + done, size);
		done += size;
	}
	return 0;
}

static __attribute__((noinline)) int map(const struct map *request)
{
	if (request->flags & ~3u)
		return S_INVAL;
	struct domain *domain = domains[request->domain & 63];
	while (domain && domain->id != request->domain)
		domain = domain->following;
	if (!domain)
		return S_NOENT;
	if (domain->bypass)
		return S_INVAL;
	if ((request->start | ~request->end | request->physical) & 4095)
		return S_RANGE;
	uint64_t first = request->start >> 12, last = request->end >> 12, gpa = request->physical >> 12;
	if (last < first)
		return S_INVAL;
	if (first < input_first || last > input_last || gpa + (last - first) >= PFN_LIMIT)
		return S_RANGE;
	for (const struct range *range = reserved; range; range = range->following)
		if (range->first <= last && range->last >= first)
			return S_INVAL;
	if (mappings == MAPPING_LIMIT)
		return S_NOMEM;
	if (insert(&domain->mappings, first, last - first + 1, gpa, request->flags) < 0)
		return S_INVAL;
	mappings++;
	return S_OK;
}

static int serve_one(void)
{
	uint8_t request[72], tail[4] = { 0 };
	int state = is_packed ? take_packed() : take_split();
	if (state != TAKEN)
		return state;
	int64_t length = read_chain(request, sizeof(request));
	if (length < 4 || chain.writable < 4)
		return give(0) < 0 ? BROKEN : TAKEN;
	if (request[0] != T_MAP)
		abort();
	tail[0] = length < (int64_t)sizeof(struct map) ? S_INVAL : map((const struct map *)request);
	int written = write_chain(tail, 4) < 0 ? 0 : 4;
	return give(written) < 0 ? BROKEN : TAKEN;
}

static void notify(void)
{
	uint32_t left = QUEUE_SIZE;
	while (left) {
		uint32_t count = 0;
		int state = TAKEN;
		while (count < BATCH_LIMIT && (state = serve_one()) == TAKEN)
			count++;
		if (state < 0)
			abort();
		if (count)
			publish();
		else
			return;
		left -= count;
	}
}

static void descriptor(uint32_t index, uint64_t address, uint32_t bytes, uint32_t rest)
{
	store64(DESCRIPTORS + 16 * index, address);
	store64(DESCRIPTORS + 16 * index + 8, (uint64_t)rest << 32 | bytes);
}

static uint32_t kicks, seen;

/* What the kick before left: mappings, statuses, used buffers. */
static uint32_t look(void)
{
	uint32_t sum = mappings + interrupts;
	for (uint32_t i = 0; i < REQUESTS; i++) {
		uint64_t used = 0;
		const struct node *n = lookup(&domains[DOMAIN]->mappings, i);
		if (n)
			sum = sum * 31 + ((n->value + (i - n->first)) << 12);
		sum = sum * 31 + ram.host[BUFFERS + i * BUFFER_BYTES + sizeof(struct map)];
		load64(is_packed ? DESCRIPTORS + 32 * i + 8 : DEVICE + 4 + 8 * ((ring.used - REQUESTS + i) & (QUEUE_SIZE - 1)), &used);
		sum = (sum * 31 + (uint32_t)used) * 31 + (uint32_t)(used >> 32);
	}
	return sum;
}

static void free_nodes(struct node *n)
{
	if (!n)
		return;
	free_nodes(n->child[0]);
	free_nodes(n->child[1]);
	free(n);
}

static void before(void)
{
	struct domain *domain = domains[DOMAIN];
	seen = look();
	free_nodes(domain->mappings.root);
	domain->mappings = (struct tree){ 0 };
	mappings = 0;
	for (uint32_t i = 0; i < REQUESTS; i++) {
		uint64_t buffer = BUFFERS + i * BUFFER_BYTES, start = (uint64_t)i << 12;
		struct map request = { T_MAP, DOMAIN, start, start | 4095, (uint64_t)((i * 7 + kicks) % REQUESTS) << 12, 3 };
		memcpy(ram.host + buffer, &request, sizeof(request));
		ram.host[buffer + sizeof(request)] = 0xff;
		uint32_t marks = kicks & 1 ? F_USED : F_AVAIL;
		descriptor(2 * i, buffer, sizeof(request), is_packed ? i | (F_NEXT | marks) << 16 : F_NEXT | (2 * i + 1) << 16);
		descriptor(2 * i + 1, buffer + sizeof(request), 4, is_packed ? i | (F_WRITE | marks) << 16 : F_WRITE);
	}
	kicks++;
	if (!is_packed)
		store16(DRIVER + 2, kicks * REQUESTS);
}

static uint32_t batch(void)
{
	notify();
	return mappings + seen;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	is_packed = !strcmp(argv[0], "packed");
	operations = REQUESTS;
	make_ram(0x100000);
	domains[DOMAIN] = allocate(sizeof(struct domain));
	domains[DOMAIN]->id = DOMAIN;
	ring.wrap = ring.used_wrap = 1;
	for (uint32_t i = 0; i < QUEUE_SIZE; i++)
		store16(DRIVER + 4 + 2 * i, 2 * (i % REQUESTS));
	store16(is_packed ? DRIVER + 2 : DRIVER, 1);
}
