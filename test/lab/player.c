// Plays programs of system calls against the kernel that it runs on, and writes down what each came to: its result, and every byte of memory that it changed.
// player PROGRAMS RESULTS [PATH…]: PROGRAMS is as test/kernel/lockstep/program.ts writes it. Each program runs in a process of its own, whose first free
// descriptor is 3 and whose memory lies where the file says. PATH…: what steps open by number.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { END, OPEN, CLOSE, IOCTL, READ, WRITE, POLL, MMAP, MUNMAP, EVENTFD, DMA, LIMIT, FORK, EXIT, MEMFD };
// Beside the operation: the child does it.
enum { BY_CHILD = 0x100 };
enum { AREA_MAX = 8, SECONDS = 20 };

struct area { uint64_t address, bytes, writable; };
struct head { uint32_t areas, programs; };
// Before the call, `pokes` pieces of memory are written: each a struct poke and its bytes, padded to 8.
struct step { uint32_t operation, pokes; int64_t fd; uint64_t request, address, bytes; };
struct poke { uint64_t address, bytes; };

static struct head head;
static struct area areas[AREA_MAX];
static uint8_t *shadows[AREA_MAX];
static uint8_t *at, *result, *results;
static char **paths;
static int path_count;
// The child, if there is one, and pipes to it (which step) and from it (that it is done).
static pid_t child;
static int to_child, from_child;
// Where a program stands, for whoever looks after it.
static struct { uint64_t written; } *shared;

static void fail(const char *what) { fprintf(stderr, "player: %s: %s\n", what, strerror(errno)); exit(2); }

// Whether the kernel has warned of itself (Documentation/admin-guide/tainted-kernels.rst: W).
static int has_warned(void) {
  char text[32] = "";
  int fd = open("/proc/sys/kernel/tainted", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, text, sizeof text - 1) < 0) fail("tainted");
  close(fd);
  return strtoul(text, NULL, 10) >> 9 & 1;
}

static void *take(size_t bytes) { void *p = at; at += (bytes + 7) & ~(size_t)7; return p; }

static void put(const void *from, size_t bytes) { memcpy(result, from, bytes); result += bytes; shared->written = result - results; }

// Memory is compared in words; neighbours that changed are one run.
static void put_changes(void) {
  for (uint32_t i = 0; i < head.areas; i++) {
    uint64_t *now = (uint64_t *)areas[i].address, *before = (uint64_t *)shadows[i], words = areas[i].bytes / 8;
    if (!areas[i].writable || !memcmp(now, before, areas[i].bytes)) continue;
    for (uint64_t first = 0; first < words; first++) {
      if (now[first] == before[first]) continue;
      uint64_t end = first;
      while (end < words && now[end] != before[end]) end++;
      struct poke change = { areas[i].address + first * 8, (end - first) * 8 };
      put(&change, sizeof change);
      put(now + first, change.bytes);
      memcpy(before + first, now + first, change.bytes);
      first = end;
    }
  }
  put(&(struct poke){ 0, 0 }, sizeof(struct poke));
}

static int64_t outcome(int64_t value) { return value < 0 ? -errno : value; }

// Where the program says, so that it can name what it mapped.
static int64_t map(struct step *s) {
  void *p = mmap((void *)s->request, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, s->fd, s->address);
  return p == MAP_FAILED ? -errno : 0;
}

// Registers of a VFIO device's file: a region begins at its index << 40 (linux/vfio_pci_core.h).
enum { BAR = 0, CONFIG = 7, COMMAND = 4, MEMORY_AND_MASTER = 6 };
static int64_t region(int index, uint64_t offset) { return ((int64_t)index << 40) + offset; }
static int put32(int fd, uint64_t offset, uint32_t value) { return pwrite(fd, &value, 4, region(BAR, offset)) == 4 ? 0 : -errno; }

// QEMU's iommu-testdev (docs/specs/iommu-testdev.rst) writes 0x12345678 at an IOVA: 1 when it was let through, 0 when not.
static int64_t dma(struct step *s) {
  static const struct { uint8_t offset; uint32_t value; } rest[] = { { 0x0c, 4 }, { 0x18, 10 }, { 0x1c, 0 }, { 0x20, 0 }, { 0x14, 1 } };
  uint16_t command = MEMORY_AND_MASTER;
  uint32_t trigger, result;
  if (pwrite(s->fd, &command, 2, region(CONFIG, COMMAND)) != 2) return -errno;
  int failed = put32(s->fd, 0x04, s->address) | put32(s->fd, 0x08, s->address >> 32);
  for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) failed |= put32(s->fd, rest[i].offset, rest[i].value);
  if (failed || pread(s->fd, &trigger, 4, region(BAR, 0)) != 4 || pread(s->fd, &result, 4, region(BAR, 0x10)) != 4) return -EIO;
  return result != 0xdead0002;
}

// RLIMIT_MEMLOCK, which holds for whoever has no CAP_IPC_LOCK.
static int64_t limit(struct step *s) {
  struct rlimit lock = { s->request, s->request };
  struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data)) return -errno;
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  data[0].permitted &= ~(1u << CAP_IPC_LOCK);
  return outcome(syscall(SYS_capset, &header, data) || setrlimit(RLIMIT_MEMLOCK, &lock) ? -1 : 0);
}

static int64_t split(void);

static int64_t run(struct step *s) {
  switch (s->operation & ~BY_CHILD) {
    case OPEN: return outcome(open(s->request < (uint64_t)path_count ? paths[s->request] : "", O_RDWR | O_CLOEXEC));
    case CLOSE: return outcome(close(s->fd));
    case IOCTL: return outcome(ioctl(s->fd, s->request, s->address));
    case READ: return outcome(read(s->fd, (void *)s->address, s->bytes));
    case WRITE: return outcome(write(s->fd, (void *)s->address, s->bytes));
    case POLL: { struct pollfd p = { s->fd, POLLIN, 0 }; int n = poll(&p, 1, 0); return n > 0 ? p.revents : outcome(n); }
    case MMAP: return map(s);
    case MUNMAP: return outcome(munmap((void *)s->request, s->bytes));
    case EVENTFD: return outcome(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    case DMA: return dma(s);
    case LIMIT: return limit(s);
    case FORK: return split();
    case EXIT: return 0;
    case MEMFD: { int fd = memfd_create("memory", MFD_CLOEXEC); return fd < 0 || ftruncate(fd, s->bytes) ? -errno : fd; }
    default: fail("unknown step"); return 0;
  }
}

static void pokes_of(struct step *s, int done) {
  for (uint32_t i = 0; i < s->pokes; i++) {
    struct poke *poke = take(sizeof *poke);
    void *bytes = take(poke->bytes);
    if (!done) continue;
    for (uint32_t k = 0; k < head.areas; k++) {
      struct area *a = &areas[k];
      if (poke->address - a->address >= a->bytes) continue;
      void *p = (void *)a->address;
      if (!a->writable && mprotect(p, a->bytes, PROT_READ | PROT_WRITE)) fail("mprotect");
      memcpy((void *)poke->address, bytes, poke->bytes);
      if (!a->writable && mprotect(p, a->bytes, PROT_READ)) fail("mprotect");
      memcpy(shadows[k] + (poke->address - a->address), bytes, poke->bytes);
    }
  }
}

static void do_step(struct step *s) {
  pokes_of(s, 1);
  int64_t rc = run(s);
  result = results + shared->written;
  put(&rc, sizeof rc);
  put_changes();
}

// The child waits for steps that are its own.
static int64_t split(void) {
  int to[2], from[2];
  if (pipe(to) || pipe(from)) return -errno;
  child = fork();
  if (child < 0) return -errno;
  to_child = fcntl(to[1], F_DUPFD_CLOEXEC, 100);
  from_child = fcntl(from[0], F_DUPFD_CLOEXEC, 100);
  int steps = fcntl(to[0], F_DUPFD_CLOEXEC, 100), done = fcntl(from[1], F_DUPFD_CLOEXEC, 100);
  for (int i = 0; i < 2; i++) { close(to[i]); close(from[i]); }
  if (child > 0) { close(steps); close(done); return 0; }
  close(to_child); close(from_child);
  alarm(SECONDS);
  while (read(steps, &at, sizeof at) == sizeof at) {
    struct step *s = take(sizeof *s);
    do_step(s);
    if (s->operation == (EXIT | BY_CHILD)) break;
    if (write(done, &at, sizeof at) != sizeof at) break;
  }
  _exit(0);
}

// Its end closes what it has, before it can be waited for.
static void end_child(void) {
  if (!child) return;
  close(to_child); close(from_child);
  int status;
  if (waitpid(child, &status, 0) != child || status) _exit(3);
  child = 0;
}

static void let_child(struct step *s) {
  uint8_t *here = (uint8_t *)s;
  if (write(to_child, &here, sizeof here) != sizeof here) _exit(4);
  pokes_of(s, 0);
  if (s->operation == (EXIT | BY_CHILD)) { end_child(); return; }
  if (read(from_child, &here, sizeof here) != sizeof here) _exit(5);
}

static void play(void) {
  for (uint32_t i = 0; i < head.areas; i++) {
    void *p = mmap((void *)areas[i].address, areas[i].bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
    if (p != (void *)areas[i].address) fail("mmap of an area");
    if (!areas[i].writable && mprotect(p, areas[i].bytes, PROT_READ)) fail("mprotect");
    shadows[i] = calloc(1, areas[i].bytes);
  }
  alarm(SECONDS);
  for (;;) {
    struct step *s = take(sizeof *s);
    if (s->operation == END) break;
    if (s->operation & BY_CHILD) let_child(s);
    else do_step(s);
  }
  end_child();
}

static void skip(void) {
  for (;;) {
    struct step *s = take(sizeof *s);
    if (s->operation == END) return;
    pokes_of(s, 0);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) { fprintf(stderr, "player PROGRAMS RESULTS [PATH...]\n"); return 2; }
  // Nothing else shall lie where the areas do.
  if (!(personality(0xffffffff) & ADDR_NO_RANDOMIZE)) { personality(ADDR_NO_RANDOMIZE); execv("/proc/self/exe", argv); fail("exec"); }
  close_range(3, 99, 0);
  paths = argv + 3; path_count = argc - 3;
  int fd = open(argv[1], O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st)) fail(argv[1]);
  uint8_t *file = malloc(st.st_size);
  for (off_t done = 0; done < st.st_size;) { ssize_t n = read(fd, file + done, st.st_size - done); if (n <= 0) fail("read"); done += n; }
  close(fd);
  FILE *out = fopen(argv[2], "wb");
  if (!out) fail(argv[2]);
  int kept = fcntl(fileno(out), F_DUPFD_CLOEXEC, 100);
  close(fileno(out));
  const size_t room = 16 << 20;
  results = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  at = file;
  memcpy(&head, take(sizeof head), sizeof head);
  if (head.areas > AREA_MAX) fail("areas");
  memcpy(areas, take(head.areas * sizeof *areas), head.areas * sizeof *areas);
  int warned = has_warned();
  for (uint32_t i = 0; i < head.programs; i++) {
    result = results; shared->written = 0;
    pid_t player = fork();
    if (player < 0) fail("fork");
    if (player == 0) { play(); _exit(0); }
    int status;
    if (waitpid(player, &status, 0) != player) fail("wait");
    int warns = !warned && has_warned();
    warned |= warns;
    uint64_t end[2] = { shared->written, (uint64_t)status | (uint64_t)warns << 32 };
    if (write(kept, end, sizeof end) != sizeof end) fail("write");
    for (uint64_t done = 0; done < shared->written;) { ssize_t n = write(kept, results + done, shared->written - done); if (n <= 0) fail("write"); done += n; }
    skip();
  }
  return 0;
}
