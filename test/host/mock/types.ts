/** Numbers of the kernel's selftests (drivers/iommu/iommufd/iommufd_test.h). */

export const IOMMU_TEST_CMD = (0x3b << 8) | 0xa0;

/** Types of the mock: enum values that no hardware has. */
export const SELFTEST = {
  hwInfo: 0xfeed_beef,
  hwInfoRegister: 0xdead_beef,
  hwptData: 0xdead,
  hwptInvalidate: 0xdead_beef,
  viommu: 0xdead_beef,
  viommuInvalidate: 0xdead_beef,
  veventq: 0xbeef_beef,
  hwQueue: 0xdead_beef,
  /** Where the mock can map. */
  base: 0x100_0000,
  last: 0x7fff_ffff,
  deviceCache: 0xba_ddad,
} as const;
