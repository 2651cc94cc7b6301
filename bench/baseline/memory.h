/* Guest memory as C has it: one region, every access checked against it; and a bump allocator with a list of free pages. */
#include "bench.h"

static struct region {
	uint64_t gpa, bytes;
	uint8_t *host;
} ram;

static void make_ram(uint64_t bytes)
{
	ram = (struct region){ 0, bytes, allocate(bytes) };
}

static inline int load64(uint64_t gpa, uint64_t *value)
{
	uint64_t offset = gpa - ram.gpa;
	if (offset > ram.bytes - 8)
		return -1;
	*value = __atomic_load_n((uint64_t *)(ram.host + offset), __ATOMIC_RELAXED);
	return 0;
}

static inline int store64(uint64_t gpa, uint64_t value)
{
	uint64_t offset = gpa - ram.gpa;
	if (offset > ram.bytes - 8)
		return -1;
	__atomic_store_n((uint64_t *)(ram.host + offset), value, __ATOMIC_RELAXED);
	return 0;
}

static inline int compare_exchange64(uint64_t gpa, uint64_t old, uint64_t value)
{
	uint64_t offset = gpa - ram.gpa;
	if (offset > ram.bytes - 8)
		return -1;
	return __atomic_compare_exchange_n((uint64_t *)(ram.host + offset), &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Pages from `next_page` to `end_page` for tables. */
static uint64_t next_page, end_page, *free_pages, free_count;

static __attribute__((unused)) void make_pages(uint64_t first, uint64_t end)
{
	next_page = first;
	end_page = end;
	free_pages = allocate((end - first) * sizeof(*free_pages));
}

static __attribute__((unused)) uint64_t allocate_page(void)
{
	uint64_t page;
	if (free_count)
		page = free_pages[--free_count];
	else if (next_page < end_page)
		page = next_page++;
	else
		abort();
	memset(ram.host + page * 4096, 0, 4096);
	return page;
}

static inline void free_page(uint64_t page)
{
	free_pages[free_count++] = page;
}
