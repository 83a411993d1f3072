/* Files by device and inode: a hash table in an arena of fixed size, so that memory does not grow with the tree. */
#define _GNU_SOURCE
#include "inode_table.h"
#include "file_io.h"

#include <stdint.h>
#include <string.h>

enum { BUCKETS = 1 << 16, ARENA = 32 << 20 };

struct seen {
	struct seen *next;
	dev_t device;
	ino_t inode;
	char name[];
};

static struct seen **buckets;
static char *arena;
static size_t used;
static bool full;

static struct seen **bucket_of(dev_t device, ino_t inode)
{
	uint64_t mixed = ((uint64_t)inode ^ ((uint64_t)device << 32)) * 0x9e3779b97f4a7c15ULL;

	if (!buckets) {
		buckets = room_for(BUCKETS * sizeof *buckets);
		arena = room_for(ARENA);
	}
	return &buckets[mixed >> 48];
}

bool inode_table_add(dev_t device, ino_t inode, const char *name)
{
	struct seen **bucket = bucket_of(device, inode);
	size_t length = strlen(name) + 1;
	size_t size = (sizeof(struct seen) + length + 15) / 16 * 16;
	struct seen *entry = (struct seen *)(arena + used);

	if (size > ARENA - used) {
		full = true;
		return false;
	}
	used += size;
	entry->next = *bucket;
	entry->device = device;
	entry->inode = inode;
	memcpy(entry->name, name, length);
	*bucket = entry;
	return true;
}

const char *inode_table_find(dev_t device, ino_t inode)
{
	for (struct seen *entry = *bucket_of(device, inode); entry; entry = entry->next)
		if (entry->device == device && entry->inode == inode)
			return entry->name;
	return NULL;
}

bool inode_table_full(void)
{
	return full;
}
