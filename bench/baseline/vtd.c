/*
 * What bench/rows/vtd.ts does, in C: a VT-d unit (D51397-018) with the registers, checks and caches of src/target/vtd: untranslated
 * requests of a device behind a second stage of 4 levels in legacy mode, descriptors of the invalidation queue, interrupt remapping,
 * and register accesses. Arguments: hit PAGES, miss PAGES, commands BYTES (16 or 32 a descriptor), remap or register.
 */
#include "memory.h"
#include "iotlb.h"
#include "order.h"
#include "works.h"

#define READ 1u
#define WRITE 2u
#define SPECIAL 12u
#define PS (1ull << 7)
#define SNP (1ull << 11)
#define ADDRESS 0x000ffffffffff000ull
#define WIDTH 48 /* bits of an address */
#define BASE 0x12ull /* upper half of the addresses */
#define TABLE_PAGES 4096
#define DEVICE 8
#define DOMAIN 5
#define IOTLB_ENTRIES 65536

/* Registers (11.4), in words. */
#define GSTS 0x1c
#define CCMD 0x28
#define FSTS 0x34
#define FECTL 0x38
#define IQH 0x80
#define IQT 0x88
#define IQA 0x90
#define IOTLB_REG 0xf8
#define TE (1u << 31)
#define QIE (1u << 26)
#define IRE (1u << 25)
#define CFI (1u << 23)
static uint32_t registers[1024];
static int is_legacy = 1;

static inline uint32_t *reg(uint32_t offset)
{
	return &registers[offset / 4];
}

/* Whose request was translated last. */
static struct {
	uint32_t device, pasid, space, context;
	uint64_t root;
} current;

static struct {
	uint64_t address;
	uint32_t permission, type;
} out;

static inline int is_interrupt(uint64_t address)
{
	return address >> 20 == 0xfee;
}

static __attribute__((noinline)) int walk(uint64_t address, uint32_t access)
{
	if (address >> 48)
		return -4;
	uint64_t table = current.root;
	uint32_t permission = READ | WRITE;
	for (int level = 3;; level--) {
		uint64_t entry, in_page = (1ull << (12 + 9 * level)) - 1;
		if (load64(table + (address >> (12 + 9 * level) & 511) * 8, &entry) < 0)
			return -6;
		if (!(entry & 3))
			return -1;
		int leaf = !level || entry & PS;
		if (entry >> WIDTH & 0xf || (leaf ? level > 0 && (level == 3 || entry & in_page & ADDRESS) : !!(entry & SNP)))
			return -3;
		permission &= entry;
		if (leaf) {
			if (access & 3 & ~permission)
				return -2;
			out.address = (entry & ADDRESS & ~in_page) | (address & in_page);
			out.permission = permission;
			out.type = entry >> 3 & 15;
			return 12 + 9 * level;
		}
		table = entry & ADDRESS;
	}
}

static __attribute__((noinline)) int translate_slowly(uint32_t device, uint32_t pasid, uint64_t address, uint32_t access)
{
	if (is_interrupt(address) || !(*reg(GSTS) & TE) || device != current.device || pasid != current.pasid)
		abort(); /* this benchmark has one device, and it sends no interrupts */
	int lg2 = walk(address, access);
	if (lg2 < 0 || is_interrupt(out.address))
		abort();
	fill(current.space, current.context, address, lg2, out.address, out.permission);
	tlb.out = out.address;
	return lg2;
}

static inline int translate(uint32_t device, uint32_t pasid, uint64_t address, uint32_t access)
{
	if (device == current.device && pasid == current.pasid && !(access & SPECIAL)) {
		int lg2 = lookup(current.space, current.context, address, access & 3);
		if (lg2 >= 0)
			return lg2;
	}
	return translate_slowly(device, pasid, address, access);
}

static void map(uint64_t address, uint64_t page)
{
	uint64_t table = current.root, entry = 0;
	for (int level = 3; level; level--) {
		uint64_t slot = table + (address >> (12 + 9 * level) & 511) * 8;
		load64(slot, &entry);
		if (!entry)
			store64(slot, entry = allocate_page() << 12 | 3);
		table = entry & ADDRESS;
	}
	store64(table + (address >> 12 & 511) * 8, page << 12 | 3);
}

static void setup_translations(uint32_t pages, int is_hit)
{
	operations = 1 << 13;
	make_ram(TABLE_PAGES * 4096ull);
	make_pages(2, TABLE_PAGES);
	current.device = DEVICE;
	current.pasid = NO_CONTEXT;
	current.space = DOMAIN;
	current.context = NO_CONTEXT;
	current.root = allocate_page() << 12;
	*reg(GSTS) = TE;
	make_iotlb(is_hit ? 2 * pages : 16);
	for (uint32_t page = 0; page < pages; page++)
		map(BASE << 32 | (uint64_t)page << 12, output_of(page));
	make_order(pages, 1);
}

static uint32_t run_translations(void)
{
	uint32_t sum = 0;
	for (uint32_t i = at; i < at + operations; i++) {
		int lg2 = translate(DEVICE, NO_CONTEXT, BASE << 32 | (uint64_t)order[i] << 12, READ);
		sum += lg2 + (uint32_t)tlb.out + (uint32_t)(tlb.out >> 32);
	}
	next_batch();
	return sum;
}

#define QUEUE 0x100000ull
#define COMMANDS 2048u
#define MAMV 18
static uint32_t descriptor_bytes;

static void setup_commands(uint32_t bytes)
{
	descriptor_bytes = bytes;
	operations = COMMANDS - 1;
	is_legacy = bytes == 16;
	make_ram(QUEUE + COMMANDS * bytes);
	make_iotlb(IOTLB_ENTRIES);
	fill(DOMAIN, NO_CONTEXT, 0, 12, 0, READ);
	for (uint64_t i = 0; i < COMMANDS; i++) {
		uint64_t type = bytes == 16 ? 2 | 3 << 4 : 6 | 3 << 4 | 9ull << 32;
		store64(QUEUE + i * bytes, type | (i & 15) << 16);
		store64(QUEUE + i * bytes + 8, (i * 7) << 12);
	}
	*reg(IQA) = QUEUE | (bytes == 16 ? 3 : 1 << 11 | 4);
	*reg(GSTS) = QIE;
}

/* Reserved bits of each type (6.5.2). */
static const uint64_t reserved[10][4] = {
	[1] = { 0xfffc00000000f1c0ull, -1, -1, -1 },
	[2] = { 0xffffffff0000f100ull, 0xf80, -1, -1 },
	[3] = { 0xffff0000ffe0f1f0ull, 0xffe, -1, -1 },
	[4] = { 0xffff000007fff1e0ull, -1, -1, -1 },
	[5] = { 0x00000000fffff100ull, 3, -1, -1 },
	[6] = { 0xfff000000000f1c0ull, 0xf80, -1, -1 },
	[7] = { 0xfff000000000f1c0ull, -1, -1, -1 },
	[8] = { 0xfff000000000f000ull, 0x7fe, -1, -1 },
	[9] = { 0xfff00000000001e0ull, 0xfffffffffffff003ull, -1, -1 },
};

/* 0, or the error (IQEI). */
static inline int execute(const uint64_t *words)
{
	uint32_t type = (words[0] >> 5 & 0x70) | (words[0] & 15);
	if (type < 1 || type > 9 || (type > 5 && is_legacy))
		return 3;
	const uint64_t *mask = reserved[type];
	if ((words[0] & mask[0]) | (words[1] & mask[1]) | (words[2] & mask[2]) | (words[3] & mask[3]))
		return 4;
	uint32_t domain = words[0] >> 16 & 0xffff, granularity = words[0] >> 4 & 3, lg2 = words[1] & 63;
	uint64_t first = words[1] >> 12;
	switch (type) {
	case 2:
		if (granularity == 0 || (granularity == 3 && lg2 > MAMV))
			return 4;
		if (granularity == 3) {
			first = (first & ((1ull << (WIDTH - 12)) - 1)) >> lg2 << lg2;
			invalidate_range(domain, NO_CONTEXT, first, first + (1ull << lg2) - 1);
			if (!is_legacy)
				invalidate_space(domain ^ 0x10200);
		} else
			invalidate_space(domain);
		return 0;
	case 6:
		if (granularity < 2)
			return 4;
		lg2 = lg2 > 52 ? 52 : lg2;
		first = first >> lg2 << lg2;
		if (granularity == 3)
			invalidate_range(domain ^ 0x10200, words[0] >> 32 & 0xfffff, first, first + (1ull << lg2) - 1);
		else
			invalidate_context(domain ^ 0x10200, words[0] >> 32 & 0xfffff);
		return 0;
	default:
		abort(); /* this benchmark has these two */
	}
}

static uint32_t run_commands(void)
{
	uint32_t bytes = descriptor_bytes, end = COMMANDS * bytes, wide = bytes == 32;
	*reg(IQT) = (*reg(IQT) + (COMMANDS - 1) * bytes) % end;
	if (*reg(IQT) >= 4096u << (*reg(IQA) & 7))
		abort();
	for (uint32_t left = 1 << 15; left; left--) {
		uint32_t head = *reg(IQH);
		if (!(*reg(GSTS) & QIE) || head == *reg(IQT) || *reg(FSTS) & 0x50)
			break;
		uint64_t words[4] = { 0 }, address = (*reg(IQA) & ~0xfffu) + head;
		if (load64(address, &words[0]) < 0 || load64(address + 8, &words[1]) < 0)
			abort();
		if (wide && (load64(address + 16, &words[2]) < 0 || load64(address + 24, &words[3]) < 0))
			abort();
		if (execute(words))
			abort();
		*reg(IQH) = (head + bytes) & (end - 1);
	}
	return *reg(IQH);
}

#define INTERRUPT_TABLE 0x2000ull
#define INTERRUPTS 256u

static struct {
	uint32_t vector, destination, logical, hint, mode, level;
} interrupt;

static int load128(uint64_t address, uint64_t *low, uint64_t *high)
{
	uint64_t again;
	for (int i = 0; i < 16; i++) {
		if (load64(address, low) < 0 || load64(address + 8, high) < 0 || load64(address, &again) < 0)
			return -1;
		if (again == *low)
			break;
	}
	return 0;
}

/* A request in remappable format (5.1.2.2) for an entry of xAPIC format. */
static int remap(uint32_t source, uint32_t address, uint32_t data)
{
	if (!(*reg(GSTS) & IRE))
		abort();
	if (!(address >> 4 & 1) || (address >> 3 & 1 && data >> 16))
		return -1;
	uint32_t index = (address >> 5 & 0x7fff) | (address >> 2 & 1) << 15;
	if (address >> 3 & 1)
		index += data & 0xffff;
	uint64_t low, high;
	if (index >= INTERRUPTS)
		return -2;
	if (load128(INTERRUPT_TABLE + index * 16, &low, &high) < 0 || !(low & 1))
		return -3;
	uint32_t id = high & 0xffff, validation = high >> 18 & 3;
	if (validation > 2)
		return -4;
	if (validation == 2 && (source >> 8 < id >> 8 || source >> 8 > (id & 0xff)))
		return -5;
	static const uint32_t qualifiers[] = { 0, 4, 6, 7 };
	if (validation == 1 && (source ^ id) & ~qualifiers[high >> 16 & 3])
		return -5;
	uint32_t mode = low >> 5 & 7;
	if (low & 0xff00f000ull || high & ~0xfffffull || low & 0xffff00ff00000000ull || 1 << mode & 0x48)
		return -6;
	interrupt.vector = low >> 16 & 0xff;
	interrupt.destination = low >> 40 & 0xff;
	interrupt.logical = low >> 2 & 1;
	interrupt.hint = low >> 3 & 1;
	interrupt.mode = mode;
	interrupt.level = low >> 4 & 1;
	return 0;
}

static void setup_remap(void)
{
	operations = 1 << 13;
	make_ram(INTERRUPT_TABLE + INTERRUPTS * 16);
	for (uint64_t i = 0; i < INTERRUPTS; i++) {
		store64(INTERRUPT_TABLE + i * 16, 1 | (i & 255) << 16 | (i * 5 & 255) << 40);
		store64(INTERRUPT_TABLE + i * 16 + 8, 1 << 18 | DEVICE);
	}
	*reg(GSTS) = IRE;
}

static uint32_t run_remap(void)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < operations; i++) {
		uint32_t index = i * 37 % INTERRUPTS;
		sum += remap(DEVICE, 0xfee00010 | 1 << 3 | (index & 0xf0) << 5, index & 15) + interrupt.vector + interrupt.destination;
	}
	return sum;
}

/* Accesses of 4 and 8 bytes: of what a driver reads and writes most, each has its own effect. */
static inline int is_access(uint32_t offset, uint32_t bytes)
{
	return (bytes == 4 || bytes == 8) && offset % bytes == 0 && offset + bytes <= sizeof(registers);
}

static __attribute__((noinline)) uint64_t read_register(uint32_t offset, uint32_t bytes)
{
	if (!is_access(offset, bytes))
		return 0;
	if (*reg(GSTS) & QIE)
		abort();
	return bytes == 4 ? *reg(offset) : *reg(offset) | (uint64_t)*reg(offset + 4) << 32;
}

static void write_word(uint32_t offset, uint32_t value)
{
	switch (offset) {
	case IQT:
		*reg(IQT) = value & 0x7fff0;
		return;
	case IQT + 4:
		return;
	case FECTL + 4:
		*reg(offset) = value & 0xffff;
		return;
	case FECTL + 8:
		*reg(offset) = value & ~3u;
		return;
	case FSTS:
		*reg(FSTS) &= ~(value & 0x71);
		if (!(*reg(FSTS) & 0x73))
			*reg(FECTL) &= ~(1u << 30);
		return;
	default:
		abort(); /* this benchmark writes these */
	}
}

static __attribute__((noinline)) void write_register(uint32_t offset, uint32_t bytes, uint64_t value)
{
	if (!is_access(offset, bytes))
		return;
	write_word(offset, value);
	if (bytes == 8)
		write_word(offset + 4, value >> 32);
	if (*reg(GSTS) & QIE)
		abort();
}

static uint32_t run_register(void)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < operations / 8; i++) {
		write_register(IQT, 8, (uint64_t)(i & 1023) << 4);
		sum += (uint32_t)read_register(IQH, 8);
		sum += (uint32_t)read_register(FSTS, 4);
		sum += (uint32_t)read_register(GSTS, 4);
		write_register(FSTS, 4, 0x71);
		sum += (uint32_t)read_register(IQT, 8);
		write_register(FECTL + 4, 4, i & 255);
		sum += (uint32_t)read_register(FECTL + 4, 4);
	}
	return sum;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	uint32_t number = argc > 1 ? atoi(argv[1]) : 0;
	if (!strcmp(argv[0], "commands")) {
		setup_commands(number);
		work = run_commands;
	} else if (!strcmp(argv[0], "remap")) {
		setup_remap();
		work = run_remap;
	} else if (!strcmp(argv[0], "register")) {
		operations = 1 << 13;
		work = run_register;
	} else {
		setup_translations(number, !strcmp(argv[0], "hit"));
		work = run_translations;
	}
}
