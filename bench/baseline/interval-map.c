/* What bench/rows/interval-map.ts does, in C: lookups, insertions and removals of intervals in a tree. */
#include "interval-tree.h"

/* Removes the interval that begins at `first`; this benchmark removes no other. Returns its pages. */
static uint64_t removed(struct tree *tree, uint64_t first)
{
	struct node **path[MAX_DEPTH], **link = &tree->root;
	int depth = 0;
	while (*link && (*link)->first != first) {
		path[depth++] = link;
		link = &(*link)->child[first > (*link)->first];
	}
	struct node *n = *link;
	if (!n)
		return 0;
	uint64_t pages = n->pages;
	path[depth++] = link;
	if (n->child[0] && n->child[1]) {
		/* The successor takes its place. */
		int place = depth;
		struct node **next = &n->child[1];
		while ((*next)->child[0]) {
			path[depth++] = next;
			next = &(*next)->child[0];
		}
		struct node *successor = *next;
		*next = successor->child[1];
		successor->child[0] = n->child[0];
		successor->child[1] = n->child[1];
		successor->height = n->height;
		*link = successor;
		if (depth > place)
			path[place] = &successor->child[1];
	} else {
		*link = n->child[0] ? n->child[0] : n->child[1];
		depth--;
	}
	free(n);
	tree->size--;
	retrace(path, depth);
	return pages;
}
static struct tree tree;
static uint32_t places;

static inline uint64_t place(void)
{
	return (((uint64_t)(random32() >> 2) * places) >> 30) * 8;
}

static void setup(int argc, char **argv)
{
	if (argc < 1)
		exit(2);
	uint32_t intervals = atoi(argv[0]);
	places = 2 * intervals;
	operations = 1 << 11;
	while (tree.size < intervals) {
		uint64_t first = place();
		insert(&tree, first, 4, 3 * first, 3);
	}
}

static void before(void)
{
}

static uint32_t batch(void)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < operations; i++) {
		uint32_t kind = random32() & 0x300;
		uint64_t first = place();
		if (kind == 0) {
			sum += insert(&tree, first, 4, 3 * first, 3) < 0 ? 1 : 2;
		} else if (kind == 0x100) {
			sum += removed(&tree, first);
		} else {
			const struct node *n = lookup(&tree, first + 1);
			if (n)
				sum += n->value;
		}
	}
	return sum;
}
