/*
 * What bench/rows/riscv.ts does, in C: a RISC-V IOMMU's translation of untranslated requests through the cache of iotlb.h and
 * Sv48 tables (RISC-V Privileged Architecture, 11.5), and its command queue (RISC-V IOMMU, "Command-Queue").
 * Arguments: hit or miss, and the pages that are mapped; or commands, and 1: what each selects is in the cache.
 */
#include "memory.h"
#include "iotlb.h"
#include "order.h"

#define READ 1
#define BY_USER 8
#define V 1ull
#define R 2ull
#define W 4ull
#define X 8ull
#define U 16ull
#define G 32ull
#define A 64ull
#define D 128ull
#define N (1ull << 63)
#define PBMT (3ull << 61)
#define RESERVED (0x1full << 54)
#define PPN 0x003ffffffffffc00ull

#define BASE 0x3412ull /* upper half of the addresses */
#define TABLE_PAGES 4096
#define IOTLB_ENTRIES 65536

static struct {
	uint64_t address;
	uint32_t permission, type;
} out;

/* The context in use. */
static struct {
	uint32_t device, process, space, context, events;
	uint64_t root;
	int update, uses_sum;
} current;

static __attribute__((noinline)) int walk(uint64_t address, uint32_t access, uint64_t *to, uint32_t *permission, uint32_t *type)
{
	if ((uint64_t)((int64_t)(address << 16) >> 16) != address)
		return -4;
	uint64_t table = current.root;
	for (int level = 3;; level--) {
		uint64_t at = table + (address >> (12 + 9 * level) & 511) * 8, pte;
		if (load64(at, &pte) < 0)
			return -6;
		if (!(pte & V))
			return -1;
		if ((pte & (R | W)) == W || pte & RESERVED || (pte & PBMT) == PBMT || (pte & N && level))
			return -3;
		if (!(pte & (R | X))) {
			if (!level || pte & (D | A | U | PBMT | N))
				return -3;
			table = (pte & PPN) << 2;
			continue;
		}
		uint64_t page = (pte & PPN) << 2, in_page = (1ull << (12 + 9 * level)) - 1;
		if (page & in_page || pte & N)
			return -3;
		uint32_t granted = pte & U ? pte >> 1 & 7 : 0;
		if (!(pte & D))
			granted &= ~2u;
		if (access & 7 & ~granted)
			return -2;
		if (!(pte & A) && !(current.update && compare_exchange64(at, pte, pte | A)))
			return -7;
		*to = page | (address & in_page);
		*permission = granted;
		*type = pte >> 61 & 3;
		return 12 + 9 * level;
	}
}

static inline int translate(uint32_t device, uint32_t process, uint64_t address, uint32_t access)
{
	if (device != current.device || process != current.process || current.events)
		abort(); /* this benchmark has one device, and counts nothing */
	int lg2 = lookup(current.space, current.context, address, access | BY_USER);
	if (lg2 >= 0)
		return lg2;
	lg2 = walk(address, access, &out.address, &out.permission, &out.type);
	tlb.out = out.address;
	if (lg2 >= 0)
		fill(current.space, current.context, address, lg2, out.address, out.permission | BY_USER | out.type << 8);
	return lg2;
}

static int is_commands, is_cached;

static void map(uint64_t address, uint64_t page)
{
	uint64_t table = current.root, pte = 0;
	for (int level = 3; level; level--) {
		uint64_t slot = table + (address >> (12 + 9 * level) & 511) * 8;
		load64(slot, &pte);
		if (!pte)
			store64(slot, pte = allocate_page() << 10 | V);
		table = (pte & PPN) << 2;
	}
	store64(table + (address >> 12 & 511) * 8, page << 10 | V | R | W | U | A | D);
}

#define QUEUE (TABLE_PAGES * 4096ull) /* above all tables, as there */
#define COMMANDS 2048

static inline uint64_t page_of(uint64_t i)
{
	return i * 7;
}

/* A queue of IOTINVAL.VMA, each of a page of a process. */
static void setup_commands(void)
{
	operations = COMMANDS - 1;
	make_ram(QUEUE + COMMANDS * 16);
	make_iotlb(IOTLB_ENTRIES);
	for (uint64_t i = 0; i < COMMANDS; i++) {
		store64(QUEUE + i * 16, 1 | 1 << 10 | (i & 15) << 12 | 1ull << 32);
		store64(QUEUE + i * 16 + 8, (BASE << 20 | page_of(i)) << 10);
	}
}

static uint32_t head;

static uint32_t run_commands(void)
{
	uint32_t tail = (head + COMMANDS - 1) % COMMANDS;
	for (; head != tail; head = (head + 1) % COMMANDS) {
		uint64_t low, high;
		if (load64(QUEUE + head * 16ull, &low) < 0 || load64(QUEUE + head * 16ull + 8, &high) < 0)
			abort();
		if ((low & 0x3ff) != 1 || low & 0xf0000ff800000800ull || high & 0xc0000000000001ffull)
			abort();
		uint32_t space = low >> 33 & 1 ? low >> 44 & 0xffff : 0x10000, process = low >> 12 & 0xfffff;
		uint64_t first = high >> 10, last = first;
		if (high >> 9 & 1) {
			uint64_t pages = 2;
			while (first & (pages / 2))
				pages *= 2;
			first &= ~(pages - 1);
			last = first + pages - 1;
		}
		if (!(low >> 32 & 1)) {
			invalidate_space(space);
		} else if (!(low >> 10 & 1)) {
			invalidate_context(space, process);
		} else {
			invalidate_range(space, process, first, last);
			if (current.uses_sum)
				invalidate_range(space, process | 1 << 20, first, last);
		}
	}
	return head;
}

static void setup(int argc, char **argv)
{
	if (argc < 2)
		exit(2);
	is_commands = !strcmp(argv[0], "commands");
	is_cached = is_commands && atoi(argv[1]);
	if (is_commands) {
		setup_commands();
		return;
	}
	uint32_t pages = atoi(argv[1]);
	int is_hit = !strcmp(argv[0], "hit");
	operations = 1 << 13;
	make_ram(TABLE_PAGES * 4096ull);
	make_pages(2, TABLE_PAGES);
	current.device = 8;
	current.process = -1;
	current.space = 0x10000;
	current.context = 5;
	current.root = allocate_page() << 12;
	make_iotlb(is_hit ? 2 * pages : 16);
	for (uint32_t page = 0; page < pages; page++)
		map(BASE << 32 | (uint64_t)page << 12, output_of(page));
	make_order(pages, 1);
}

static void before(void)
{
	for (uint64_t i = 0; is_cached && i < COMMANDS; i++)
		fill(0x10000, i & 15, BASE << 32 | page_of(i) << 12, 12, output_of(page_of(i)) << 12, R | W | BY_USER);
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
