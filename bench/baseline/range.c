/*
 * Mapping and unmapping a range in an x86-64 table of 4 levels, with the largest pages that fit, as src/pagetable/radix.ts does:
 * what is mapped already ends a map; a table that an unmap empties is freed.
 * Arguments: map or unmap; lg2 of the pages, 12 or 21.
 */
#include "memory.h"

#define P (1ull << 0)
#define RW (1ull << 1)
#define US (1ull << 2)
#define PS (1ull << 7)
#define XD (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull
#define LARGEST 1

static uint64_t root;

static inline uint64_t pages_at(int level)
{
	return 1ull << 9 * level;
}

static inline uint64_t entry_at(uint64_t table, int level, uint64_t page)
{
	return table + (page >> 9 * level & 511) * 8;
}

/* The largest level whose entry can map what is left. */
static inline int level_for(uint64_t iova, uint64_t output, uint64_t pages)
{
	int level = LARGEST;
	while (level > 0 && (((iova | output) & (pages_at(level) - 1)) || pages < pages_at(level)))
		level--;
	return level;
}

static uint64_t map(uint64_t iova, uint64_t output, uint64_t pages)
{
	uint64_t done = 0;
	while (done < pages) {
		int leaf = level_for(iova + done, output + done, pages - done);
		uint64_t table = root;
		for (int level = 3; level > leaf; level--) {
			uint64_t at = entry_at(table, level, iova + done), entry;
			if (load64(at, &entry) < 0)
				return done;
			if (!(entry & P)) {
				entry = allocate_page() * 4096 | P | RW | US;
				store64(at, entry);
			} else if (entry & PS) {
				return done;
			}
			table = entry & ADDRESS;
		}
		uint64_t step = pages_at(leaf), bits = P | RW | US | XD | (leaf ? PS : 0);
		do {
			uint64_t at = entry_at(table, leaf, iova + done), entry;
			if (load64(at, &entry) < 0 || entry & P)
				return done;
			store64(at, (output + done) * 4096 | bits);
			done += step;
		} while (pages - done >= step && (iova + done) & (pages_at(leaf + 1) - 1) &&
			 (leaf == LARGEST || level_for(iova + done, output + done, pages - done) == leaf));
	}
	return done;
}

static int is_empty(uint64_t table)
{
	for (uint64_t at = table; at < table + 4096; at += 8) {
		uint64_t entry;
		load64(at, &entry);
		if (entry)
			return 0;
	}
	return 1;
}

/* Unmaps [first, last] of what a table translates, `base` its first page. This benchmark splits no large page. */
static uint64_t unmap_in(uint64_t table, int level, uint64_t first, uint64_t last)
{
	uint64_t step = pages_at(level), done = 0;
	for (uint64_t page = first; page <= last; page = (page | (step - 1)) + 1) {
		uint64_t at = entry_at(table, level, page), entry;
		load64(at, &entry);
		if (!(entry & P))
			continue;
		if (level == 0 || entry & PS) {
			store64(at, 0);
			done += step;
			continue;
		}
		uint64_t end = page | (step - 1);
		done += unmap_in(entry & ADDRESS, level - 1, page, end < last ? end : last);
		if (((page & (step - 1)) == 0 && end <= last) || is_empty(entry & ADDRESS)) {
			store64(at, 0);
			free_page((entry & ADDRESS) / 4096);
		}
	}
	return done;
}

static uint64_t unmap(uint64_t iova, uint64_t pages)
{
	return unmap_in(root, 3, iova, iova + pages - 1);
}

#define IOVA 0x341200000ull

static int unmapping;
static uint64_t output, pages;

static void setup(int argc, char **argv)
{
	if (argc < 2)
		exit(2);
	unmapping = !strcmp(argv[0], "unmap");
	int lg2 = atoi(argv[1]);
	output = 0x40000000ull + (lg2 == 12);
	pages = lg2 == 12 ? 1 << 16 : 1 << 20;
	operations = pages >> (lg2 - 12);
	make_ram(4096 * 4096);
	make_pages(0, 4096);
	root = allocate_page() * 4096;
	if (!unmapping)
		map(IOVA, output, pages);
}

static void before(void)
{
	if (unmapping)
		map(IOVA, output, pages);
	else
		unmap(IOVA, pages);
}

static uint32_t batch(void)
{
	if (unmapping)
		return unmap(IOVA, pages);
	uint32_t sum = map(IOVA, output, pages);
	/* 16 of the entries. */
	for (uint64_t page = 0; page < pages; page += pages >> 4) {
		uint64_t table = root, entry = 0;
		for (int level = 3; level >= 0; level--) {
			load64(entry_at(table, level, IOVA + page), &entry);
			if (entry & PS)
				break;
			table = entry & ADDRESS;
		}
		sum += (uint32_t)(entry & ADDRESS) + (uint32_t)(entry >> 32 & 0xfffff);
	}
	return sum;
}
