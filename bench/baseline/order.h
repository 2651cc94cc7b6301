/* Pages that lead elsewhere, as bench/translations.ts has them, and the order in which batches go through them. */
#include "bench.h"

#define FIRST_PAGE 0x200000ull

static inline uint64_t output_of(uint64_t page)
{
	return FIRST_PAGE + (page ^ 0x155);
}

static uint32_t *order, order_length, at;

/* A batch's worth at least; `pages` is a power of two. */
static inline void make_order(uint32_t pages, int is_random)
{
	order_length = pages > operations ? pages : operations;
	order = allocate(order_length * sizeof(*order));
	for (uint32_t i = 0; i < order_length; i++)
		order[i] = (is_random ? random32() : i) & (pages - 1);
}

/* After a batch. */
static inline void next_batch(void)
{
	at = at + operations == order_length ? 0 : at + operations;
}
