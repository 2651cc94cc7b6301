/* The cache of src/memory/iotlb.ts, filled and looked up in. */
#include "iotlb.h"
#include "order.h"

static void setup(int argc, char **argv)
{
	if (argc < 2)
		exit(2);
	uint32_t pages = atoi(argv[0]);
	int is_random = !strcmp(argv[1], "random");
	operations = 1 << 13;
	make_iotlb(2 * pages);
	for (uint32_t page = 0; page < pages; page++) {
		uint64_t out = (uint64_t)(page >> 8) << 32 | (page * 0x9e3779b1u & ~0xfffu);
		fill(7, 2, 5ull << 32 | (uint64_t)page << 12, 12, out, 3);
	}
	make_order(pages, is_random);
}

static void before(void)
{
}

static uint32_t batch(void)
{
	uint32_t sum = 0;
	for (uint32_t i = at; i < at + operations; i++) {
		int lg2 = lookup(7, 2, 5ull << 32 | (uint64_t)order[i] << 12, 1);
		sum += lg2 + (uint32_t)tlb.out + (uint32_t)(tlb.out >> 32);
	}
	next_batch();
	return sum;
}
