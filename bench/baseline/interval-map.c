/* An AVL tree of intervals, a malloc a node: what src/memory/interval-map.ts is measured against. */
#include "bench.h"

struct node {
	uint64_t first, pages, value;
	struct node *child[2];
	int32_t permission, height;
};

#define MAX_DEPTH 64

static struct node *root;
static uint64_t size;

static inline int height(const struct node *n)
{
	return n ? n->height : 0;
}

static inline void update(struct node *n)
{
	int left = height(n->child[0]), right = height(n->child[1]);
	n->height = 1 + (left > right ? left : right);
}

/* Lifts the child on `side` above its parent. */
static struct node *rotate(struct node *n, int side)
{
	struct node *up = n->child[side];
	n->child[side] = up->child[!side];
	up->child[!side] = n;
	update(n);
	update(up);
	return up;
}

static struct node *balance(struct node *n)
{
	int lean = height(n->child[1]) - height(n->child[0]);
	if (lean >= -1 && lean <= 1) {
		update(n);
		return n;
	}
	int side = lean > 0;
	struct node *tall = n->child[side];
	if (height(tall->child[!side]) > height(tall->child[side]))
		n->child[side] = rotate(tall, !side);
	return rotate(n, side);
}

/* Restores balance along the links that a change went through; stops where the height is what it was. */
static void retrace(struct node ***path, int depth)
{
	while (depth-- > 0) {
		struct node **link = path[depth];
		if (!*link)
			continue;
		int was = (*link)->height;
		*link = balance(*link);
		if ((*link)->height == was)
			return;
	}
}

static struct node *lookup(uint64_t page)
{
	struct node *n = root;
	while (n) {
		if (page < n->first)
			n = n->child[0];
		else if (page - n->first < n->pages)
			return n;
		else
			n = n->child[1];
	}
	return NULL;
}

static int insert(uint64_t first, uint64_t pages, uint64_t value, int permission)
{
	struct node **path[MAX_DEPTH], **link = &root;
	int depth = 0;
	while (*link) {
		path[depth++] = link;
		if (first + pages <= (*link)->first)
			link = &(*link)->child[0];
		else if (first >= (*link)->first + (*link)->pages)
			link = &(*link)->child[1];
		else
			return -1;
	}
	struct node *n = malloc(sizeof(*n));
	if (!n)
		abort();
	*n = (struct node){ first, pages, value, { NULL, NULL }, permission, 1 };
	*link = n;
	size++;
	retrace(path, depth);
	return 0;
}

/* Removes the interval that begins at `first`; this benchmark removes no other. Returns its pages. */
static uint64_t removed(uint64_t first)
{
	struct node **path[MAX_DEPTH], **link = &root;
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
	size--;
	retrace(path, depth);
	return pages;
}

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
	while (size < intervals) {
		uint64_t first = place();
		insert(first, 4, 3 * first, 3);
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
			sum += insert(first, 4, 3 * first, 3) < 0 ? 1 : 2;
		} else if (kind == 0x100) {
			sum += removed(first);
		} else {
			const struct node *n = lookup(first + 1);
			if (n)
				sum += n->value;
		}
	}
	return sum;
}
