// Maps and unmaps through /dev/iommu as a C program does it: what bench/kernel/map-unmap.ts is compared with.
//   map-unmap DEVICE_NODE BYTES COUNT  ->  nanoseconds per map and unmap in the best of ten rounds
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

// include/uapi/linux/iommufd.h and vfio.h, as far as they are needed: every struct opens with its size.
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct vfio_bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct vfio_attach { uint32_t argsz, flags, pt_id; };
#define REQUEST(n) ((';' << 8) | (n))
#define IOAS_ALLOC REQUEST(0x81)
#define IOAS_MAP REQUEST(0x85)
#define IOAS_UNMAP REQUEST(0x86)
#define BIND REQUEST(100 + 18)
#define ATTACH REQUEST(100 + 19)

static void check(long result, const char *what) {
  if (result >= 0) return;
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  uint64_t bytes = strtoull(argv[2], 0, 0);
  long count = strtol(argv[3], 0, 0);
  int iommufd = open("/dev/iommu", O_RDWR), device = open(argv[1], O_RDWR);
  check(iommufd, "/dev/iommu");
  check(device, argv[1]);
  struct vfio_bind bind = {sizeof bind, 0, iommufd, 0};
  check(ioctl(device, BIND, &bind), "bind");
  struct ioas_alloc alloc = {sizeof alloc, 0, 0};
  check(ioctl(iommufd, IOAS_ALLOC, &alloc), "alloc");
  struct vfio_attach attach = {sizeof attach, 0, alloc.out_ioas_id};
  check(ioctl(device, ATTACH, &attach), "attach");
  char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 1, bytes);
  struct ioas_map map = {sizeof map, 1 | 2 | 4, alloc.out_ioas_id, 0, (uintptr_t)memory, bytes, 0x40000000};
  struct ioas_unmap unmap = {sizeof unmap, alloc.out_ioas_id, 0x40000000, bytes};
  double best = 1e18;
  for (int round = 0; round < 10; round++) {
    double start = now();
    for (long i = 0; i < count; i++) {
      check(ioctl(iommufd, IOAS_MAP, &map), "map");
      unmap.length = bytes;
      check(ioctl(iommufd, IOAS_UNMAP, &unmap), "unmap");
    }
    double took = (now() - start) / count;
    if (took < best) best = took;
  }
  printf("%.1f\n", best);
  return 0;
}
