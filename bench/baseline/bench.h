/*
 * What every baseline shares. A program defines `setup`, `before` and `batch`, and `operations`, as a Work of bench/row.ts has
 * them; `main` samples as bench/worker.ts does: CHECKED batches for the checksum, as many milliseconds of warm-up as are
 * measured, then the time of the batch that one in twenty is faster than. First argument: the milliseconds; the others go to `setup`.
 */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECKED 8
#define MAX_BATCHES 1000000

static uint32_t operations;
static void setup(int argc, char **argv);
static void before(void);
static uint32_t batch(void);

/* xorshift32 (Marsaglia 2003), as bench/random.ts. */
static uint32_t random_state = 1;
static inline uint32_t random32(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

static void *allocate(size_t bytes)
{
	void *memory = calloc(1, bytes);
	if (!memory)
		abort();
	return memory;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Times batches until they have taken `budget` ns, three at least. Returns how many. */
static size_t run(double budget, double *times, volatile uint32_t *sink)
{
	size_t n = 0;
	for (double sum = 0; (sum < budget || n < 3) && n < MAX_BATCHES; n++) {
		before();
		double start = now();
		*sink ^= batch();
		times[n] = now() - start;
		sum += times[n];
	}
	return n;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	double budget = atof(argv[1]) * 1e6;
	setup(argc - 2, argv + 2);
	uint32_t checksum = 0;
	for (int i = 0; i < CHECKED; i++) {
		before();
		checksum += batch();
	}
	volatile uint32_t sink = 0;
	double *times = allocate(MAX_BATCHES * sizeof(double));
	run(budget, times, &sink);
	size_t n = run(budget, times, &sink);
	qsort(times, n, sizeof(double), ascending);
	printf("{\"nsPerOp\":%.6f,\"checksum\":%d}\n", times[n / 20] / operations, (int32_t)checksum);
	return 0;
}
