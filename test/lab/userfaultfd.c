/*
 * What a handler of userfaultfd's write protection sees of 1,000 stores of another thread to one page of a memfd.
 * cc -O1 -static -pthread -o userfaultfd userfaultfd.c && ./userfaultfd
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STORES = 1000, PAGE = 4096 };

static _Atomic unsigned *page;
static _Atomic int go;
static _Atomic unsigned done;

static void *store(void *unused) {
  while (!go)
    ;
  for (unsigned i = 1; i <= STORES; i++) {
    *page = i;
    done = i;
  }
  return unused;
}

static int fail(const char *operation) {
  printf("%s: %s\n", operation, strerror(errno));
  return 1;
}

int main(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) return fail("userfaultfd");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
  if (ioctl(fd, UFFDIO_API, &api)) return fail("UFFDIO_API");
  int ram = memfd_create("ram", 0);
  if (ram < 0 || ftruncate(ram, PAGE)) return fail("memfd");
  page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
  if (page == MAP_FAILED) return fail("mmap");
  *page = 0;
  struct uffdio_register registered = {.range = {(unsigned long)page, PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
  if (ioctl(fd, UFFDIO_REGISTER, &registered)) return fail("UFFDIO_REGISTER");
  struct uffdio_writeprotect protection = {.range = registered.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  if (ioctl(fd, UFFDIO_WRITEPROTECT, &protection)) return fail("UFFDIO_WRITEPROTECT");
  pthread_t thread;
  if (pthread_create(&thread, NULL, store, NULL)) return fail("pthread_create");
  go = 1;
  unsigned faults = 0;
  while (done < STORES) {
    struct pollfd readable = {fd, POLLIN, 0};
    struct uffd_msg message;
    if (poll(&readable, 1, 100) <= 0 || read(fd, &message, sizeof message) != sizeof message) continue;
    if (++faults == 1) printf("at the first fault: the page holds %u\n", *page);
    /* The store goes on when the page is not protected, and so does whatever follows it. */
    protection.mode = 0;
    if (ioctl(fd, UFFDIO_WRITEPROTECT, &protection)) return fail("release");
    protection.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    if (ioctl(fd, UFFDIO_WRITEPROTECT, &protection)) return fail("protect");
  }
  pthread_join(thread, NULL);
  printf("%u stores: %u faults\n", STORES, faults);
  return 0;
}
