/*
 * What bench/rows/smmuv3.ts does, in C: an SMMUv3's translation through the cache of iotlb.h and tables of stage 1, or of both stages
 * (Arm DDI 0487, D8), with the checks of src/pagetable/arm.ts; and its command queue (IHI 0070, chapter 4).
 * Arguments: hit, miss, nested or commands.
 */
#include "memory.h"
#include "iotlb.h"
#include "order.h"

#define READ 1
#define WRITE 2
#define EXECUTE 4
#define PRIVILEGED 8

enum { NOT_PRESENT = -1, PERMISSION = -2, RESERVED = -3, INPUT_SIZE = -4, TABLE_ACCESS = -6, OUTPUT_SIZE = -7, ACCESS_FLAG = -8 };

#define VALID 1ull
#define TABLE 2ull
#define CLEAN 0x80ull
#define AF 0x400ull
#define NOT_GLOBAL 0x800ull
#define DBM (1ull << 51)
#define CONTIGUOUS (1ull << 52)

/* One table, as CD or STE configure it. */
struct table {
	uint64_t root, sign, excess, address, beyond, hierarchy;
	uint64_t fault_bit, set_bit, writable, reported;
	int top, top_shift, top_mask, stride, top_block, dirty, joined[5];
	uint8_t grants[32];
};

struct result {
	uint64_t address;
	uint32_t permission, type;
};

static inline uint32_t grant(const struct table *t, uint64_t entry, uint64_t hierarchy, uint32_t access)
{
	uint32_t tables = hierarchy >> 59 & 15, own = (entry >> 4 & 12) | (entry >> 53 & 3);
	return t->grants[((own | (tables & 11)) & ~(tables & 4)) | (access & PRIVILEGED) << 1];
}

/* Loads and updates entries: as they lie, or behind stage 2. */
typedef int load_entry(uint64_t at, uint64_t *entry);
typedef int update_entry(uint64_t at, uint64_t old, uint64_t value);

static inline __attribute__((always_inline)) int walk_table(const struct table *t, load_entry *load, update_entry *update, uint64_t address, uint32_t access,
							    struct result *out)
{
	if ((address ^ t->sign) & t->excess)
		return INPUT_SIZE;
	uint64_t table = t->root, hierarchy = 0;
	int level = t->top, shift = t->top_shift, mask = t->top_mask;
	for (int tries = 0; tries < 16;) {
		uint64_t index = address >> shift & mask, at = table | index << 3, entry;
		if (load(at, &entry) < 0)
			return TABLE_ACCESS;
		if (!(entry & VALID))
			return NOT_PRESENT;
		int is_table = level > 0 && entry & TABLE;
		if (!is_table && (level > 0 ? level > t->top_block : !(entry & TABLE)))
			return RESERVED;
		uint64_t to = entry & t->address;
		if (to & t->beyond)
			return OUTPUT_SIZE;
		if (is_table) {
			hierarchy |= entry & t->hierarchy;
			table = to;
			level--;
			shift -= t->stride;
			mask = (1 << t->stride) - 1;
			continue;
		}
		if (~entry & t->fault_bit)
			return ACCESS_FLAG;
		uint64_t dirtied = t->dirty && entry & DBM && (entry & CLEAN) != t->writable ? entry ^ CLEAN : entry;
		uint32_t permission = grant(t, dirtied, hierarchy, access);
		if (access & 7 & ~permission)
			return PERMISSION;
		uint64_t updated = (access & WRITE ? dirtied : entry) | t->set_bit;
		if (updated != entry) {
			int done = update(at, entry, updated);
			if (done < 0)
				return TABLE_ACCESS;
			tries++;
			if (!done)
				continue;
		}
		int lg2 = shift;
		if (entry & CONTIGUOUS && !(((to >> shift) ^ index) & ((1ull << t->joined[level]) - 1)))
			lg2 += t->joined[level];
		uint64_t offset = (1ull << lg2) - 1;
		*out = (struct result){ (to & ~offset) | (address & offset), permission, entry & t->reported };
		return lg2;
	}
	return TABLE_ACCESS;
}

static struct table first, second;
static int is_nested;

static __attribute__((noinline)) int walk_second(uint64_t address, uint32_t access, struct result *out)
{
	return walk_table(&second, load64, compare_exchange64, address, access, out);
}

static inline int load_behind(uint64_t at, uint64_t *entry)
{
	struct result host;
	return walk_second(at, READ, &host) < 0 ? -1 : load64(host.address, entry);
}

static inline int update_behind(uint64_t at, uint64_t old, uint64_t value)
{
	struct result host;
	return walk_second(at, WRITE, &host) < 0 ? -1 : compare_exchange64(host.address, old, value);
}

static __attribute__((noinline)) int walk(uint64_t address, uint32_t access, struct result *out, int *global)
{
	if (!is_nested) {
		int lg2 = walk_table(&first, load64, compare_exchange64, address, access, out);
		*global = lg2 >= 0 && !(out->type & NOT_GLOBAL);
		return lg2;
	}
	struct result middle;
	int lg2 = walk_table(&first, load_behind, update_behind, address, access, &middle);
	if (lg2 < 0)
		return lg2;
	int second_lg2 = walk_second(middle.address, access, out);
	if (second_lg2 < 0)
		return second_lg2;
	out->permission &= middle.permission;
	*global = !(middle.type & NOT_GLOBAL);
	return lg2 < second_lg2 ? lg2 : second_lg2;
}

/* Where the requests of the stream in use go. */
static struct {
	uint32_t stream, substream, space, tag, events;
	uint8_t wishes[16];
} route;

static inline int translate(uint32_t stream, uint32_t substream, uint64_t address, uint32_t access)
{
	if (stream != route.stream || substream != route.substream || route.events)
		abort(); /* this benchmark has one stream, and records nothing */
	uint32_t wish = route.wishes[access & 15], tag = route.tag + (wish >> 3);
	int lg2 = lookup(route.space, tag, address, wish & 7);
	if (lg2 >= 0)
		return lg2;
	struct result out;
	int global;
	lg2 = walk(address, wish, &out, &global);
	if (lg2 < 0)
		abort();
	fill(route.space, tag, address, lg2, out.address, out.permission);
	if (global)
		globals[route.space & 1023] = 1;
	tlb.out = out.address;
	return lg2;
}

#define TABLE_PAGES 4096
#define PAGES 16384
#define BASE 0x12ull /* upper half of the addresses */
#define ASID 5

static void make_table(struct table *t, int stage)
{
	*t = (struct table){ .root = allocate_page() << 12, .excess = ~0ull << 48, .address = 0xfffffffff000ull, .beyond = ~0ull << 48 };
	t->hierarchy = stage == 1 ? 15ull << 59 : 0;
	t->fault_bit = AF;
	t->writable = stage == 1 ? 0 : CLEAN;
	t->reported = stage == 1 ? 0x31c | NOT_GLOBAL : 0x33c;
	t->top = 3;
	t->top_shift = 39;
	t->top_mask = 511;
	t->stride = 9;
	t->top_block = 2;
	for (int level = 0; level < 3; level++)
		t->joined[level] = 4;
	for (uint32_t i = 0; i < 32; i++) {
		uint32_t data = i & 8 ? READ : READ | WRITE, user = i & 4 ? data : 0;
		if (stage == 2)
			t->grants[i] = (i >> 2 & 3) | ((i & 3) == 0 || (i & 3) == (i & 16 ? 3 : 1) ? EXECUTE : 0);
		else if (i & 16)
			t->grants[i] = data | (i & 1 || user & WRITE ? 0 : EXECUTE);
		else
			t->grants[i] = user | (i & 2 ? 0 : EXECUTE);
	}
}

static void map(const struct table *t, uint64_t address, uint64_t page, uint64_t leaf)
{
	uint64_t table = t->root, entry = 0;
	for (int shift = 39; shift > 12; shift -= 9) {
		uint64_t at = table + (address >> shift & 511) * 8;
		load64(at, &entry);
		if (!entry)
			store64(at, entry = allocate_page() << 12 | VALID | TABLE);
		table = entry & t->address;
	}
	store64(table + (address >> 12 & 511) * 8, page << 12 | leaf);
}

static int is_commands;

#define QUEUE 0x800000ull
#define QUEUE_LG2 11
#define INDEX ((2u << QUEUE_LG2) - 1)

static struct {
	uint32_t prod, cons, vmw, e2h, has_pieces, ril, ds, gerror;
} smmu = { .ril = 1, .ds = 1 };

enum { TLBI_NH_ALL = 0x10, TLBI_NH_ASID, TLBI_NH_VA, TLBI_NH_VAA };

static int range_is_illegal(uint64_t low, uint64_t high)
{
	uint32_t tg = high >> 10 & 3, ttl = high >> 8 & 3;
	if (!smmu.ril || !tg || low & (0x1full << 12 | 0x3full << 20))
		return 0;
	return !ttl || (tg == 2 && ttl == 1 && !smmu.ds);
}

static void invalidate(uint64_t low, uint64_t high, uint32_t world)
{
	uint32_t asid = low >> 48, tg = smmu.ril ? high >> 10 & 3 : 0;
	uint64_t from = high >> 12, to = from, pages;
	switch (low & 0xff) {
	case TLBI_NH_ALL:
	case TLBI_NH_VAA:
		invalidate_space(world);
		return;
	case TLBI_NH_ASID:
		invalidate_context(world, 2 * asid);
		invalidate_context(world, 2 * asid + 1);
		return;
	case TLBI_NH_VA:
		if (smmu.has_pieces) {
			invalidate_context(world, 2 * asid);
			invalidate_context(world, 2 * asid + 1);
			return;
		}
		if (tg) {
			uint32_t scale = low >> 20 & 63;
			pages = ((low >> 12 & 31) + 1) << (scale < 39 ? scale : 39) << 2 * (tg - 1);
			to = from + pages - 1 < 1ull << 52 ? from + pages - 1 : (1ull << 52) - 1;
		}
		invalidate_range(world, 2 * asid, from, to);
		invalidate_range(world, 2 * asid + 1, from, to);
		return;
	}
}

static uint32_t run_commands(void)
{
	smmu.prod ^= 1u << QUEUE_LG2;
	while ((smmu.cons & INDEX) != (smmu.prod & INDEX)) {
		uint64_t place = QUEUE + 16 * (smmu.cons & ((1u << QUEUE_LG2) - 1)), low, high;
		if (load64(place, &low) < 0 || load64(place + 8, &high) < 0)
			abort();
		switch (low & 0xff) {
		case TLBI_NH_VA:
		case TLBI_NH_VAA:
			if (range_is_illegal(low, high))
				abort();
			/* fall through */
		case TLBI_NH_ALL:
		case TLBI_NH_ASID:
			break;
		default:
			abort(); /* this benchmark has no other commands */
		}
		uint32_t vmid = low >> 32 & 0xffff, count = smmu.vmw <= 4 ? 1u << smmu.vmw : 1, world = vmid & ~(count - 1);
		for (uint32_t end = world + count; world < end; world++)
			invalidate(low, high, world);
		smmu.cons = (smmu.cons + 1) & INDEX;
	}
	return smmu.cons;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	int is_miss = !strcmp(argv[0], "miss");
	is_nested = !strcmp(argv[0], "nested");
	is_commands = !strcmp(argv[0], "commands");
	make_ram(TABLE_PAGES * 4096ull);
	make_pages(3, TABLE_PAGES);
	make_iotlb(is_commands ? 65536 : is_nested || is_miss ? 16 : 2 * PAGES);
	route.stream = 8;
	route.substream = -1;
	route.space = is_nested ? 3 : 0;
	route.tag = 2 * ASID;
	for (int i = 0; i < 16; i++)
		route.wishes[i] = i;
	make_table(&first, 1);
	for (uint32_t page = 0; page < PAGES; page++)
		map(&first, BASE << 32 | (uint64_t)page << 12, output_of(page), 0x300 | (3ull << 53) | VALID | TABLE | AF | NOT_GLOBAL | 1 << 6);
	if (is_nested) {
		make_table(&second, 2);
		for (uint64_t page = 0; page < TABLE_PAGES; page++)
			map(&second, page << 12, page, 0x33c | (3ull << 53) | VALID | TABLE | AF | 3 << 6);
		for (uint64_t page = FIRST_PAGE; page < FIRST_PAGE + PAGES; page++)
			map(&second, page << 12, page, 0x33c | (3ull << 53) | VALID | TABLE | AF | 3 << 6);
	}
	translate(8, -1, BASE << 32, READ);
	operations = is_commands ? 1 << QUEUE_LG2 : is_nested ? 1 << 10 : is_miss ? 1 << 11 : 1 << 13;
	for (uint32_t asid = 0; asid < 16 && is_commands; asid++)
		fill(0, 2 * asid, BASE << 32, 12, output_of(0) << 12, READ | WRITE);
	for (uint64_t i = 0; i < 1u << QUEUE_LG2 && is_commands; i++) {
		store64(QUEUE + i * 16, TLBI_NH_VA | (i & 15) << 48);
		store64(QUEUE + i * 16 + 8, (i * 7) << 12 | 1);
	}
	make_order(PAGES, 1);
}

static void before(void)
{
}

static uint32_t batch(void)
{
	uint32_t sum = 0;
	if (is_commands)
		return run_commands();
	for (uint32_t i = at; i < at + operations; i++) {
		int lg2 = translate(8, -1, BASE << 32 | (uint64_t)order[i] << 12, READ);
		sum += lg2 + (uint32_t)tlb.out + (uint32_t)(tlb.out >> 32);
	}
	next_batch();
	return sum;
}
