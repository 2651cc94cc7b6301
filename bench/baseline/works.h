/* A program of several works: `setup` chooses what a batch is, and nothing is done before it. */
#include "bench.h"

static uint32_t (*work)(void);

static void before(void)
{
}

static uint32_t batch(void)
{
	return work();
}
