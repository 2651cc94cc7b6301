/* An AVL tree of intervals, a malloc a node: what src/memory/interval-map.ts is measured against. */
#pragma once
#include "bench.h"

struct node {
	uint64_t first, pages, value;
	struct node *child[2];
	int32_t permission, height;
};

#define MAX_DEPTH 64

struct tree {
	struct node *root;
	uint64_t size;
};

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

static struct node *lookup(const struct tree *tree, uint64_t page)
{
	struct node *n = tree->root;
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

static int insert(struct tree *tree, uint64_t first, uint64_t pages, uint64_t value, int permission)
{
	struct node **path[MAX_DEPTH], **link = &tree->root;
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
	tree->size++;
	retrace(path, depth);
	return 0;
}
