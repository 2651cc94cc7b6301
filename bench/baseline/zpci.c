/*
 * What bench/rows/zpci.ts does, in C: a PCI function of an s390 guest with the checks and caches of src/target/zpci: requests behind region third
 * tables, and RPCIT of one page. Arguments: hit PAGES, miss PAGES, or rpcit.
 */
#include "memory.h"
#include "iotlb.h"
#include "order.h"
#include "works.h"

#define READ 1u
#define WRITE 2u
#define REGION 0x4000ull
#define SEGMENT 0x8000ull
#define PAGE_TABLES 0x10000ull
#define RAM_BYTES 0x100000ull
#define APERTURE 0x100000000ull
#define FID 1u
#define HANDLE 0x80020000u
#define INVALID (1ull << 5)
#define FORMAT_CONTROL (1ull << 10)
#define PROTECTION (1ull << 9)
#define PAGE_INVALID (1ull << 10)
#define PAGE_ZERO (1ull << 11)
#define MSI_PAGE (0xfe00000000000000ull >> 12)
#define ENTRY_BUDGET (1 << 21)

enum { STANDBY, DISABLED, ENABLED, BLOCKED, ERROR };

static struct function {
	uint32_t fid, handle, index, state, has_translation;
	uint64_t first, last, last_translated, origin, refreshes;
	uint32_t protection, levels;
} function, *last_function;

static struct {
	uint64_t address;
	uint32_t permission;
} out;

/* Big-endian. */
static inline int load64be(uint64_t gpa, uint64_t *value)
{
	int result = load64(gpa, value);
	*value = __builtin_bswap64(*value);
	return result;
}

static inline void store64be(uint64_t gpa, uint64_t value)
{
	store64(gpa, __builtin_bswap64(value));
}

static __attribute__((noinline)) int walk(const struct function *one, uint64_t address, uint32_t access)
{
	uint64_t table = one->origin, entry, protection = one->protection;
	uint32_t level = one->levels - 1;
	if (address >> (9 + 11 * one->levels))
		return -4;
	for (; level; level--) {
		uint32_t shift = 9 + 11 * level;
		if (load64be(table + (address >> shift & 2047) * 8, &entry) < 0)
			return -6;
		if (entry & INVALID)
			return -1;
		if (!entry || (entry >> 2 & 3) != level - 1)
			return -3;
		protection |= entry & PROTECTION;
		if (entry & FORMAT_CONTROL && level <= 2)
			abort(); /* this benchmark has no frames */
		if (level > 1 && (entry & 0xc3) != 3)
			return -3;
		table = entry & (level > 1 ? ~0x3fffull : ~0x7ffull);
	}
	if (load64be(table + (address >> 12 & 255) * 8, &entry) < 0)
		return -6;
	if (entry & PAGE_INVALID)
		return -1;
	if (entry & PAGE_ZERO || !entry)
		return -3;
	protection |= entry & PROTECTION;
	if (access & WRITE && protection)
		return -2;
	out.address = (entry & ~4095ull) | (address & 4095);
	out.permission = protection ? READ : READ | WRITE;
	return 12;
}

static __attribute__((noinline)) int translate(uint32_t endpoint, uint64_t address, uint32_t access)
{
	struct function *one = last_function;
	if (!one || one->fid != endpoint)
		abort(); /* this benchmark has one function */
	if (one->state != ENABLED || !one->has_translation)
		return -8;
	uint64_t page = address >> 12;
	if (page == MSI_PAGE)
		abort(); /* and it sends no messages */
	if (page < one->first || page > one->last)
		return -4;
	int lg2 = lookup(one->index, NO_CONTEXT, address, access & 3);
	if (lg2 >= 0)
		return lg2;
	lg2 = walk(one, address, access & 3);
	if (lg2 < 0)
		return lg2;
	fill(one->index, NO_CONTEXT, address, lg2, out.address, out.permission);
	tlb.out = out.address;
	return lg2;
}

/* The first malformed entry on the way to the pages, as the error event has it; 0: none. */
static int left;
static __attribute__((noinline)) int check(uint32_t level, uint64_t table, uint64_t base, uint64_t first, uint64_t last)
{
	uint32_t shift = level ? 11 * level - 3 : 0;
	for (uint64_t index = (first - base) >> shift; index <= (last - base) >> shift; index++) {
		uint64_t entry, start = base + (index << shift), end = start + (1ull << shift) - 1;
		if (left-- <= 0)
			return 0;
		if (load64be(table + 8 * index, &entry) < 0 || !entry)
			return 7;
		if (!level) {
			if (!(entry & PAGE_INVALID) && entry & PAGE_ZERO)
				return 7;
			continue;
		}
		if (entry & INVALID)
			continue;
		int right_type = (entry >> 2 & 3) == level - 1;
		if (right_type && level <= 2 && entry & FORMAT_CONTROL)
			continue;
		if (level > 1 && (entry & 0xc3) != 3)
			return 8;
		if (!right_type)
			return 9;
		uint64_t below = entry & (level > 1 ? ~0x3fffull : ~0x7ffull);
		int code = check(level - 1, below, start, first > start ? first : start, last < end ? last : end);
		if (code)
			return code;
	}
	return 0;
}

/* Condition code. */
static __attribute__((noinline)) int rpcit(uint64_t *registers, uint32_t r1, uint32_t r2)
{
	if (r2 & 1)
		abort();
	struct function *one = &function;
	uint32_t handle = registers[r1] >> 32;
	if (handle != one->handle || one->state < ENABLED)
		return 3;
	if (one->state == ERROR || !one->has_translation)
		return 1;
	uint64_t address = registers[r2], bytes = registers[r2 + 1], start = address >> 12;
	uint64_t end = start + (bytes >> 12) + ((address & 4095) + (bytes & 4095) + 4095) / 4096;
	if (start > one->last || (end <= one->first && end > start))
		return 1;
	uint64_t first = start > one->first ? start : one->first, last = (end < one->last + 1 ? end : one->last + 1) - 1;
	one->refreshes++;
	if (first > last)
		return 0;
	invalidate_range(one->index, NO_CONTEXT, first, last);
	left = ENTRY_BUDGET;
	return check(one->levels - 1, one->origin, 0, first, last < one->last_translated ? last : one->last_translated) ? 1 : 0;
}

static void setup_guest(uint32_t pages, uint32_t entries)
{
	make_ram(RAM_BYTES);
	store64be(REGION + 16, SEGMENT | 7);
	for (uint32_t i = 0; i < pages / 256; i++)
		store64be(SEGMENT + 8 * i, PAGE_TABLES + 2048 * i);
	for (uint64_t page = 0; page < pages; page++)
		store64be(PAGE_TABLES + 8 * page, output_of(page) << 12);
	make_iotlb(entries);
	function = (struct function){
		.fid = FID, .handle = HANDLE, .state = ENABLED, .has_translation = 1, .levels = 3, .origin = REGION,
		.first = APERTURE >> 12, .last = (APERTURE + 0x3ffffff) >> 12, .last_translated = (APERTURE + 0x3ffffff) >> 12,
	};
	last_function = &function;
}

static uint32_t run_translations(void)
{
	uint32_t sum = 0;
	for (uint32_t i = at; i < at + operations; i++) {
		int lg2 = translate(FID, APERTURE | (uint64_t)order[i] << 12, READ);
		sum += lg2 + (uint32_t)tlb.out + (uint32_t)(tlb.out >> 32);
	}
	next_batch();
	return sum;
}

static uint32_t run_refreshes(void)
{
	uint64_t registers[16] = { 0 };
	uint32_t sum = 0;
	for (uint64_t i = 0; i < operations; i++) {
		registers[1] = (uint64_t)HANDLE << 32;
		registers[2] = APERTURE + i * 4096;
		registers[3] = 4096;
		sum += rpcit(registers, 1, 2) + 1;
	}
	return sum;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	uint32_t pages = argc > 1 ? atoi(argv[1]) : 0;
	if (!strcmp(argv[0], "rpcit")) {
		setup_guest(1 << 14, 1 << 15);
		operations = 1 << 11;
		work = run_refreshes;
	} else {
		setup_guest(pages, !strcmp(argv[0], "hit") ? 2 * pages : 16);
		operations = 1 << 13;
		make_order(pages, 1);
		work = run_translations;
	}
}
