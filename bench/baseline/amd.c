/*
 * What bench/rows/amd.ts does, in C: an AMD IOMMU (48882) with the checks and caches of src/target/amd: requests of a device behind host tables of 4
 * levels (2.2.3), and a buffer of INVALIDATE_IOMMU_PAGES (2.4.3). Arguments: hit PAGES, miss PAGES, or commands.
 */
#include "memory.h"
#include "iotlb.h"
#include "order.h"
#include "works.h"

#define READ 1u
#define PR 1ull
#define IR_IW_SHIFT 61
#define ADDRESS 0x000ffffffffff000ull
#define RESERVED_IN_LEAF (0x7full << 52)
#define RESERVED_IN_TABLE (0x1ffull << 52)
#define BASE 0x12ull /* upper half of the addresses */
#define TABLE_PAGES 4096
#define DEVICE 8u
#define DOMAIN 5
#define IOTLB_ENTRIES 65536

/* Device whose request came last, and what its device table entry says (2.2.2.1). */
static struct {
	uint32_t device, passes, translates, granted, domain;
	uint64_t root;
} current;

/* Empty where it ends before it begins. */
static uint64_t excluded_first = 1, excluded_last;

static struct {
	uint64_t address;
	uint32_t permission, type;
} out;

/* Every entry names the next lower level, the leaf has 4 KiB. */
static __attribute__((noinline)) int walk(uint64_t address, uint32_t access)
{
	uint64_t table = current.root, wanted = (uint64_t)(access & 3) << IR_IW_SHIFT, and = 3ull << IR_IW_SHIFT;
	if (address >> 48)
		return -1;
	for (int level = 3;; level--) {
		uint64_t entry;
		if (load64(table + (address >> (12 + 9 * level) & 511) * 8, &entry) < 0)
			return -6;
		if ((entry & (PR | 7 << 9)) != (PR | (uint64_t)level << 9))
			return -1;
		if ((entry & ((level ? RESERVED_IN_TABLE : RESERVED_IN_LEAF) | wanted)) != wanted)
			return -2;
		and &= entry;
		if (!level) {
			out.address = (entry & ADDRESS) | (address & 4095);
			out.permission = and >> IR_IW_SHIFT & 3;
			out.type = entry >> 59 & 3;
			return 12;
		}
		table = entry & ADDRESS;
	}
}

static __attribute__((noinline)) int miss(uint64_t address, uint32_t access)
{
	int lg2 = walk(address, access);
	if (lg2 < 0)
		abort(); /* this benchmark's pages are all there */
	fill(current.domain, NO_CONTEXT, address, lg2, out.address, out.permission);
	tlb.out = out.address;
	return lg2;
}

static __attribute__((noinline)) int translate(uint32_t device, uint64_t address, uint32_t access)
{
	if (device != current.device || current.passes || !current.translates)
		abort(); /* this benchmark has one device */
	if (address >> 20 == 0xfee || address >> 32 == 0xfd)
		abort(); /* and it sends no messages */
	uint64_t page = address >> 12;
	if (excluded_first <= excluded_last && page >= excluded_first && page <= excluded_last)
		return 12;
	if (access & 3 & ~current.granted)
		return -2;
	int lg2 = lookup(current.domain, NO_CONTEXT, address, access & 3);
	return lg2 < 0 ? miss(address, access) : lg2;
}

static void map(uint64_t address, uint64_t page)
{
	uint64_t table = current.root, entry = 0, rights = 3ull << IR_IW_SHIFT;
	for (int level = 3; level; level--) {
		uint64_t slot = table + (address >> (12 + 9 * level) & 511) * 8;
		load64(slot, &entry);
		if (!entry)
			store64(slot, entry = rights | allocate_page() << 12 | (uint64_t)level << 9 | PR);
		table = entry & ADDRESS;
	}
	store64(table + (address >> 12 & 511) * 8, rights | page << 12 | PR);
}

static void setup_translations(uint32_t pages, int is_hit)
{
	operations = 1 << 13;
	make_ram(TABLE_PAGES * 4096ull);
	make_pages(2, TABLE_PAGES);
	current.device = DEVICE;
	current.translates = 1;
	current.granted = 3;
	current.domain = DOMAIN;
	current.root = allocate_page() << 12;
	make_iotlb(is_hit ? 2 * pages : 16);
	for (uint32_t page = 0; page < pages; page++)
		map(BASE << 32 | (uint64_t)page << 12, output_of(page));
	make_order(pages, 1);
}

static uint32_t run_translations(void)
{
	uint32_t sum = 0;
	for (uint32_t i = at; i < at + operations; i++) {
		int lg2 = translate(DEVICE, BASE << 32 | (uint64_t)order[i] << 12, READ);
		sum += lg2 + (uint32_t)tlb.out + (uint32_t)(tlb.out >> 32);
	}
	next_batch();
	return sum;
}

#define BUFFER 0x100000ull
#define COMMANDS 2048u
static uint32_t head, tail, runs;

/* Reserved bits of each command (2.4). */
static const uint64_t reserved[9][2] = {
	[1] = { 0x0ff0000000000000ull, 0 },
	[2] = { 0x0fffffffffff0000ull, -1 },
	[3] = { 0x0fff0000fff00000ull, 0xff8 },
	[4] = { 0, 0xfca },
	[5] = { 0x0fffffffffff0000ull, -1 },
	[6] = { 0, 0xfea },
	[7] = { 0x0ff00000ffff0000ull, 0xffff0000fffffffbull },
	[8] = { 0x0fffffffffffffffull, -1 },
};

/* Domains that guest tables were cached for: none here. */
static uint64_t guest_domains[1024], nested_domains[1024];

static inline int has(const uint64_t *domains, uint32_t domain)
{
	return domains[domain / 64] >> domain % 64 & 1;
}

static int execute(const uint64_t *words)
{
	uint32_t opcode = words[0] >> 60;
	if (opcode < 1 || opcode > 8 || (words[0] & reserved[opcode][0]) | (words[1] & reserved[opcode][1]))
		return -1;
	if (opcode != 3)
		abort(); /* this benchmark has these */
	uint32_t domain = words[0] >> 32 & 0xffff;
	uint64_t first = words[1] >> 12, pages = 1;
	if (words[1] & 1) {
		pages = 2ull << __builtin_ctzll(~first);
		first &= ~(pages - 1);
	}
	uint32_t context = words[1] & 4 ? words[0] & 0xfffff : NO_CONTEXT;
	if (context == NO_CONTEXT && (has(guest_domains, domain) || has(nested_domains, domain)))
		invalidate_space(domain);
	else if (context != NO_CONTEXT && has(nested_domains, domain))
		invalidate_context(domain, context);
	else
		invalidate_range(domain, context, first, first + pages - 1);
	return 0;
}

static void setup_commands(void)
{
	operations = COMMANDS - 1;
	make_ram(BUFFER + COMMANDS * 16);
	make_iotlb(IOTLB_ENTRIES);
	for (uint64_t i = 0; i < COMMANDS; i++) {
		store64(BUFFER + i * 16, 3ull << 60 | (i & 15) << 32);
		store64(BUFFER + i * 16 + 8, (i * 7) << 12);
	}
	runs = 1;
}

static uint32_t run_commands(void)
{
	uint32_t mask = COMMANDS * 16 - 1;
	tail = (tail + (COMMANDS - 1) * 16) & mask;
	for (uint32_t left = 1 << 14; left && runs && head != tail; left--) {
		uint64_t words[2];
		if (load64(BUFFER + head, &words[0]) < 0 || load64(BUFFER + head + 8, &words[1]) < 0 || execute(words) < 0) {
			runs = 0;
			break;
		}
		head = (head + 16) & mask;
	}
	return head;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	if (!strcmp(argv[0], "commands")) {
		setup_commands();
		work = run_commands;
	} else {
		setup_translations(argc > 1 ? atoi(argv[1]) : 0, !strcmp(argv[0], "hit"));
		work = run_translations;
	}
}
