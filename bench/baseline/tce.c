/*
 * H_PUT_TCE and H_PUT_TCE_INDIRECT as whole hypercalls (LoPAR 14.5.4.2), and DMA reads through the table that they fill, with
 * the checks of src/target/spapr: registers in, return code out. Arguments: put, indirect, or read and its bytes.
 */
#include "memory.h"

#define H_PUT_TCE 0x20
#define H_PUT_TCE_INDIRECT 0x13c
#define H_SUCCESS 0
#define H_FUNCTION -2
#define H_PARAMETER -4
#define PERMISSION 3ull
#define READ 1
#define CHUNK_LG2 15
#define LIOBN 0x80000000u
#define WINDOW_PAGES (1u << 18)
#define RAM_BYTES (64ull << 20)
#define LIST (RAM_BYTES - 2 * 4096)

static struct window {
	uint32_t liobn, page_lg2;
	uint64_t start, pages;
	uint64_t **chunks; /* big-endian TCEs */
} window, *last_window;

static struct window *find_window(uint64_t liobn)
{
	if (last_window && last_window->liobn == liobn)
		return last_window;
	if (liobn != window.liobn)
		return NULL;
	return last_window = &window;
}

static inline int64_t index_of(const struct window *w, uint64_t ioba)
{
	uint64_t index = (ioba - w->start) >> w->page_lg2;
	return ioba & ((1ull << w->page_lg2) - 1) || ioba < w->start || index >= w->pages ? -1 : (int64_t)index;
}

static inline int allows(const struct window *w, uint64_t tce)
{
	uint64_t size = 1ull << w->page_lg2, page = tce & ~(size - 1);
	return !(tce & PERMISSION) || (page - ram.gpa < ram.bytes && ram.bytes - (page - ram.gpa) >= size);
}

/* A chunk of the table, made when it is first written to. */
static inline uint64_t *chunk_of(struct window *w, uint64_t index)
{
	uint64_t **chunk = &w->chunks[index >> CHUNK_LG2];
	if (!*chunk)
		*chunk = allocate(8ull << CHUNK_LG2);
	return *chunk;
}

static int put_tce(const uint64_t *r)
{
	struct window *w = find_window(r[4]);
	if (!w)
		return H_PARAMETER;
	int64_t index = index_of(w, r[5]);
	if (index < 0 || !allows(w, r[6]))
		return H_PARAMETER;
	uint64_t *tce = &chunk_of(w, index)[index & ((1u << CHUNK_LG2) - 1)];
	uint64_t value = __builtin_bswap64(r[6]);
	if (*tce != value)
		*tce = value;
	return H_SUCCESS;
}

static int put_tce_indirect(const uint64_t *r)
{
	static uint64_t list[512], old[512];
	uint64_t count = r[7];
	if ((int64_t)r[4] < 0)
		return H_FUNCTION;
	struct window *w = find_window(r[4]);
	if (count > 512 || !w)
		return H_PARAMETER;
	int64_t index = index_of(w, r[5]);
	if (index < 0 || index + count > w->pages || r[6] & 0xfff || r[6] - ram.gpa >= ram.bytes)
		return H_PARAMETER;
	memcpy(list, ram.host + (r[6] - ram.gpa), 4096);
	for (uint64_t i = 0; i < count; i++)
		if (!allows(w, __builtin_bswap64(list[i])))
			return H_PARAMETER;
	/* What stands there already is left out at either end; the old TCEs are kept, for a host that refuses. */
	uint64_t first = 0, end = count;
	while (first < end && chunk_of(w, index + first)[(index + first) & ((1u << CHUNK_LG2) - 1)] == list[first])
		first++;
	while (end > first && chunk_of(w, index + end - 1)[(index + end - 1) & ((1u << CHUNK_LG2) - 1)] == list[end - 1])
		end--;
	for (uint64_t i = first; i < end;) {
		uint64_t place = (index + i) & ((1u << CHUNK_LG2) - 1), n = (1u << CHUNK_LG2) - place;
		uint64_t *tce = &chunk_of(w, index + i)[place];
		if (n > end - i)
			n = end - i;
		memcpy(&old[i], tce, 8 * n);
		memcpy(tce, &list[i], 8 * n);
		i += n;
	}
	__asm__ volatile("" : : "r"(old) : "memory");
	return H_SUCCESS;
}

static __attribute__((noinline)) int hypercall(uint64_t opcode, const uint64_t *r)
{
	switch (opcode) {
	case H_PUT_TCE:
		return put_tce(r);
	case H_PUT_TCE_INDIRECT:
		return put_tce_indirect(r);
	default:
		return H_FUNCTION;
	}
}

static inline int translate(uint64_t ioba, uint32_t access, uint64_t *out)
{
	const struct window *w = &window;
	uint64_t index = (ioba - w->start) >> w->page_lg2;
	if (ioba < w->start || index >= w->pages)
		return -2;
	const uint64_t *chunk = w->chunks[index >> CHUNK_LG2];
	uint64_t tce = chunk ? __builtin_bswap64(chunk[index & ((1u << CHUNK_LG2) - 1)]) : 0;
	if (!(tce & PERMISSION))
		return -3;
	if (access & PERMISSION & ~tce)
		return -4;
	uint64_t in_page = (1ull << w->page_lg2) - 1;
	*out = (tce & ~in_page) | (ioba & in_page);
	return w->page_lg2;
}

static __attribute__((noinline)) int dma_read(uint64_t ioba, uint8_t *to, uint64_t bytes)
{
	for (uint64_t done = 0; done < bytes;) {
		uint64_t gpa, size = bytes - done;
		int lg2 = translate(ioba + done, READ, &gpa);
		if (lg2 < 0)
			return lg2;
		uint64_t room = (1ull << lg2) - ((ioba + done) & ((1ull << lg2) - 1));
		if (size > room)
			size = room;
		if (gpa - ram.gpa >= ram.bytes || ram.bytes - (gpa - ram.gpa) < size)
			return -1;
		memcpy(to + done, ram.host + (gpa - ram.gpa), size);
		done += size;
	}
	return 0;
}

enum { PUT, INDIRECT, DMA } mode;

static uint64_t registers[32];
static uint32_t round_number;
static uint64_t bytes_read;
static uint8_t buffer[4096];

/* The TCE of a page, another one each round. */
static inline uint64_t tce_of(uint32_t page, uint32_t round)
{
	return ((uint64_t)((page * 7 + round) & 0x3fff) << 12) | PERMISSION;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	mode = !strcmp(argv[0], "put") ? PUT : !strcmp(argv[0], "indirect") ? INDIRECT : DMA;
	bytes_read = argc > 1 ? atoi(argv[1]) : 0;
	operations = mode == PUT ? 1 << 14 : mode == INDIRECT ? 1 << 8 : 1 << 9;
	make_ram(RAM_BYTES);
	window = (struct window){ LIOBN, 12, 0x80000000, WINDOW_PAGES, allocate((WINDOW_PAGES >> CHUNK_LG2) * sizeof(uint64_t *)) };
	registers[4] = LIOBN;
	if (mode == DMA) {
		for (uint32_t page = 0; page < WINDOW_PAGES; page++) {
			registers[5] = 0x80000000ull + (uint64_t)page * 4096;
			registers[6] = tce_of(page, 0);
			if (hypercall(H_PUT_TCE, registers))
				abort();
		}
		for (uint64_t i = 0; i < RAM_BYTES; i += 4)
			*(uint32_t *)(ram.host + i) = (uint32_t)i * 0x9e3779b1u;
	}
}

/* The lists that the hypercalls of a batch read: two, in turn. */
static void before(void)
{
	round_number++;
	if (mode != INDIRECT)
		return;
	for (uint32_t list = 0; list < 2; list++)
		for (uint32_t i = 0; i < 512; i++)
			((uint64_t *)(ram.host + LIST + 4096 * list))[i] = __builtin_bswap64(tce_of(i, round_number + list));
}

static uint32_t batch(void)
{
	uint32_t sum = 0;
	if (mode == PUT) {
		for (uint32_t i = 0; i < operations; i++) {
			registers[4] = LIOBN;
			registers[5] = 0x80000000ull + (uint64_t)i * 4096;
			registers[6] = tce_of(i, round_number);
			sum += hypercall(H_PUT_TCE, registers) + 1;
		}
	} else if (mode == INDIRECT) {
		for (uint32_t i = 0; i < operations; i++) {
			registers[4] = LIOBN;
			registers[5] = 0x80000000ull + (uint64_t)(i >> 1) * 512 * 4096;
			registers[6] = LIST + 4096 * (i & 1);
			registers[7] = 512;
			sum += hypercall(H_PUT_TCE_INDIRECT, registers) + 1;
		}
	} else {
		for (uint32_t i = 0; i < operations; i++) {
			uint32_t page = (i * 0x9e3779b1u) >> 14;
			sum += dma_read(0x80000000ull + (uint64_t)page * 4096, buffer, bytes_read) + buffer[0] + buffer[bytes_read - 1];
		}
		return sum;
	}
	/* And what the table holds then, of one page in 128. */
	for (uint32_t page = 0; page < WINDOW_PAGES >> 2; page += 128) {
		uint64_t out = 0;
		if (translate(0x80000000ull + (uint64_t)page * 4096, READ, &out) > 0)
			sum += (uint32_t)out;
	}
	return sum;
}
