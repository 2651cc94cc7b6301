/*
 * A translation cache as QEMU's IOMMUs keep one in GLib's GHashTable: open addressing with quadratic probing, a prime
 * modulus, hashes, keys and values in arrays of their own; a 16-byte key and an entry from malloc for each page; hash and
 * equality called through pointers.
 */
#include "order.h"

struct key {
	uint64_t page;
	uint32_t tag, lg2;
};

struct translation {
	uint64_t iova, out, mask;
	uint32_t permission, lg2;
};

struct table {
	uint32_t mod, mask;
	uint32_t *hashes; /* 0: free */
	const void **keys;
	void **values;
	uint32_t (*hash)(const void *);
	int (*equal)(const void *, const void *);
};

static uint32_t key_hash(const void *p)
{
	const struct key *k = p;
	uint64_t h = k->page | (uint64_t)k->tag << 40 | (uint64_t)k->lg2 << 56;
	return (h >> 32) ^ h;
}

static int key_equal(const void *a, const void *b)
{
	const struct key *x = a, *y = b;
	return x->page == y->page && x->tag == y->tag && x->lg2 == y->lg2;
}

static inline uint32_t node_of(const struct table *t, const void *key, uint32_t hash)
{
	uint32_t at = hash * 11u % t->mod, step = 0;
	while (t->hashes[at]) {
		if (t->hashes[at] == hash && t->equal(t->keys[at], key))
			break;
		at = (at + ++step) & t->mask;
	}
	return at;
}

static inline uint32_t hash_of(const struct table *t, const void *key)
{
	uint32_t hash = t->hash(key);
	return hash < 2 ? 2 : hash;
}

static __attribute__((noinline)) void *table_lookup(const struct table *t, const void *key)
{
	uint32_t at = node_of(t, key, hash_of(t, key));
	return t->hashes[at] ? t->values[at] : NULL;
}

static void table_insert(struct table *t, const void *key, void *value)
{
	uint32_t hash = hash_of(t, key), at = node_of(t, key, hash);
	t->hashes[at] = hash;
	t->keys[at] = key;
	t->values[at] = value;
}

static int is_prime(uint32_t n)
{
	for (uint32_t d = 3; d * d <= n; d += 2)
		if (n % d == 0)
			return 0;
	return n % 2;
}

static struct table table;

static void setup(int argc, char **argv)
{
	if (argc < 2)
		exit(2);
	uint32_t pages = atoi(argv[0]), size = 2 * pages;
	int is_random = !strcmp(argv[1], "random");
	operations = 1 << 13;
	table = (struct table){ .mask = size - 1, .hash = key_hash, .equal = key_equal };
	for (table.mod = size - 1; !is_prime(table.mod); table.mod--)
		;
	table.hashes = allocate(size * sizeof(*table.hashes));
	table.keys = allocate(size * sizeof(*table.keys));
	table.values = allocate(size * sizeof(*table.values));
	for (uint32_t page = 0; page < pages; page++) {
		struct key *key = malloc(sizeof(*key));
		struct translation *value = malloc(sizeof(*value));
		uint64_t iova = 5ull << 32 | (uint64_t)page << 12;
		if (!key || !value)
			abort();
		*key = (struct key){ iova >> 12, 7 << 16 | 2, 12 };
		*value = (struct translation){ iova, (uint64_t)(page >> 8) << 32 | (page * 0x9e3779b1u & ~0xfffu), 0xfff, 3, 12 };
		table_insert(&table, key, value);
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
		uint64_t iova = 5ull << 32 | (uint64_t)order[i] << 12;
		struct key key = { iova >> 12, 7 << 16 | 2, 12 };
		const struct translation *found = table_lookup(&table, &key);
		if (!found || (found->permission & 1) != 1)
			abort();
		uint64_t out = found->out | (iova & found->mask);
		sum += found->lg2 + (uint32_t)out + (uint32_t)(out >> 32);
	}
	next_batch();
	return sum;
}
