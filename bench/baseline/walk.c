/*
 * Walks of x86-64 tables of 4 and 5 levels (Intel SDM 3A, 5.5), alone or behind a VT-d second stage of 4 levels (VT-d 3.7),
 * with the checks and the accessed and dirty bits of src/pagetable/x86.ts and vtd-second-stage.ts.
 * Arguments: 4, 5 or nested; the pages that are mapped.
 */
#include "memory.h"
#include "order.h"

#define READ 1
#define WRITE 2
#define EXECUTE 4
#define PRIVILEGED 8

#define P (1ull << 0)
#define RW (1ull << 1)
#define US (1ull << 2)
#define A (1ull << 5)
#define D (1ull << 6)
#define PS (1ull << 7)
#define XD (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull

enum { NOT_PRESENT = -1, PERMISSION = -2, RESERVED = -3, INPUT_SIZE = -4, TABLE_ACCESS = -6 };

struct result {
	uint64_t address;
	uint32_t permission, type;
};

static struct config {
	uint64_t root, second_root;
	uint64_t reserved, second_reserved;
	uint32_t write_protect, second_access;
} config;

static inline uint64_t index_of(int level, uint64_t address)
{
	return (address >> (12 + 9 * level) & 511) * 8;
}

static inline int walk_second(uint64_t address, uint32_t access, struct result *out)
{
	if (address >> 48)
		return INPUT_SIZE;
	uint64_t table = config.second_root;
	uint32_t permission = config.second_access;
	for (int level = 3;; level--) {
		uint64_t entry;
		if (load64(table + index_of(level, address), &entry) < 0)
			return TABLE_ACCESS;
		if (!(entry & config.second_access))
			return NOT_PRESENT;
		int leaf = level == 0 || entry & PS;
		uint64_t in_page = (1ull << (12 + 9 * level)) - 1;
		if (entry & config.second_reserved || (leaf && level > 0 && (level == 3 || entry & in_page & ADDRESS)))
			return RESERVED;
		permission &= entry;
		if (leaf) {
			if (access & (READ | WRITE) & ~permission)
				return PERMISSION;
			*out = (struct result){ (entry & ADDRESS & ~in_page) | (address & in_page), permission, entry >> 3 & 15 };
			return 12 + 9 * level;
		}
		table = entry & ADDRESS;
	}
}

static inline int table_load(int nested, uint64_t address, uint64_t *entry)
{
	struct result host;
	if (nested) {
		if (walk_second(address, READ, &host) < 0)
			return -1;
		address = host.address;
	}
	return load64(address, entry);
}

static inline int table_update(int nested, uint64_t address, uint64_t old, uint64_t value)
{
	struct result host;
	if (nested) {
		if (walk_second(address, WRITE, &host) < 0)
			return -1;
		address = host.address;
	}
	return compare_exchange64(address, old, value);
}

static inline uint32_t rights(uint64_t and, uint64_t or, uint32_t privileged)
{
	if (!privileged && !(and & US))
		return 0;
	return READ | (and & RW || (privileged && !config.write_protect) ? WRITE : 0) | (or & XD ? 0 : EXECUTE);
}

static inline int walk_first(int nested, int levels, uint64_t address, uint32_t access, struct result *out)
{
	int64_t sign = (int64_t)address >> (11 + 9 * levels);
	if (sign != 0 && sign != -1)
		return INPUT_SIZE;
	uint64_t table = config.root, and = RW | US, or = 0;
	int retries = 16;
	for (int level = levels - 1;;) {
		uint64_t at = table + index_of(level, address), entry;
		if (table_load(nested, at, &entry) < 0)
			return TABLE_ACCESS;
		if (!(entry & P))
			return NOT_PRESENT;
		int leaf = level == 0 || entry & PS;
		uint64_t in_page = (1ull << (12 + 9 * level)) - 1;
		if (entry & config.reserved || (leaf && level > 0 && (level > 2 || entry & in_page & ~0x1fffull)))
			return RESERVED;
		uint64_t wanted = entry | A;
		if (leaf) {
			uint32_t permission = rights(and & entry, or | entry, access & PRIVILEGED);
			if (access & ~permission & (READ | WRITE | EXECUTE))
				return PERMISSION;
			if (access & WRITE)
				wanted |= D;
			if (wanted == entry || table_update(nested, at, entry, wanted) == 1) {
				uint32_t type = (entry >> 3 & 3) | (entry >> (level ? 10 : 5) & 4);
				*out = (struct result){ (entry & ADDRESS & ~in_page) | (address & in_page), permission, type };
				return 12 + 9 * level;
			}
		} else if (wanted == entry || table_update(nested, at, entry, wanted) == 1) {
			and &= entry;
			or |= entry;
			table = entry & ADDRESS;
			level--;
			continue;
		}
		if (--retries == 0)
			return TABLE_ACCESS;
	}
}

static inline int walk_nested(uint64_t address, uint32_t access, struct result *out)
{
	struct result first;
	int lg2 = walk_first(1, 4, address, access, &first);
	if (lg2 < 0)
		return lg2;
	int second_lg2 = walk_second(first.address, access, out);
	if (second_lg2 < 0)
		return second_lg2;
	out->permission &= first.permission;
	out->type = first.type;
	return lg2 < second_lg2 ? lg2 : second_lg2;
}

/* Where the benchmark's addresses begin; the same in bench/rows/walk.ts. */
#define BASE 0x0000341200000000ull
#define BASE5 0x0034561200000000ull
/* Nested: first-stage tables lie in guest pages 0 to TABLE_PAGES - 1, and those TABLE_PAGES further up in memory. */
#define TABLE_PAGES 4096ull

static void set_second(uint64_t gpa_page, uint64_t page)
{
	uint64_t table = config.second_root;
	for (int level = 3; level > 0; level--) {
		uint64_t at = table + index_of(level, gpa_page * 4096), entry = 0;
		load64(at, &entry);
		if (!entry) {
			entry = allocate_page() * 4096 | READ | WRITE;
			store64(at, entry);
		}
		table = entry & ADDRESS;
	}
	store64(table + index_of(0, gpa_page * 4096), page * 4096 | READ | WRITE);
}

static uint64_t next_table;

static void set_first(int nested, int levels, uint64_t address, uint64_t page)
{
	uint64_t shift = nested ? TABLE_PAGES * 4096 : 0, table = config.root;
	for (int level = levels - 1; level > 0; level--) {
		uint64_t at = shift + table + index_of(level, address), entry = 0;
		load64(at, &entry);
		if (!entry) {
			entry = (nested ? next_table++ : allocate_page()) * 4096 | P | RW | US;
			store64(at, entry);
		}
		table = entry & ADDRESS;
	}
	store64(shift + table + index_of(0, address), page * 4096 | P | RW | US | XD);
}

static uint32_t mode;

static void setup(int argc, char **argv)
{
	if (argc < 2)
		exit(2);
	mode = atoi(argv[0]);
	uint64_t pages = atoi(argv[1]);
	int levels = mode == 5 ? 5 : 4, nested = mode == 0;
	operations = 1 << 11;
	make_ram(4 * TABLE_PAGES * 4096);
	make_pages(2 * TABLE_PAGES, 4 * TABLE_PAGES);
	config.reserved = config.second_reserved = 0;
	config.write_protect = 1;
	config.second_access = READ | WRITE;
	if (nested) {
		config.second_root = allocate_page() * 4096;
		for (uint64_t page = 0; page < TABLE_PAGES; page++)
			set_second(page, page + TABLE_PAGES);
		for (uint64_t page = 0; page < pages; page++)
			set_second(output_of(page), output_of(page) ^ 0x2aa);
		config.root = next_table++ * 4096;
	} else {
		config.root = allocate_page() * 4096;
	}
	for (uint64_t page = 0; page < pages; page++)
		set_first(nested, levels, (levels == 5 ? BASE5 : BASE) + page * 4096, output_of(page));
	make_order(pages, 1);
}

static void before(void)
{
}

static uint32_t batch(void)
{
	uint32_t sum = 0;
	struct result out = { 0 };
	for (uint32_t i = at; i < at + operations; i++) {
		uint64_t offset = (uint64_t)order[i] << 12;
		int lg2 = mode == 4   ? walk_first(0, 4, BASE + offset, READ, &out)
			  : mode == 5 ? walk_first(0, 5, BASE5 + offset, READ, &out)
				      : walk_nested(BASE + offset, READ, &out);
		sum += lg2 + (uint32_t)out.address + (uint32_t)(out.address >> 32) + out.permission;
	}
	next_batch();
	return sum;
}
