/** The transport over PCI as Virtual I/O Device (VIRTIO) 1.3 declares it, 4.1, and the device types that are here (5). */

export const VIRTIO_VENDOR = 0x1af4;
/** A device's ID is this and its type (4.1.2). */
export const VIRTIO_DEVICE = 0x1040;

/** Device types (5). */
export const VirtioType = { NETWORK: 1, BLOCK: 2, ENTROPY: 4, IOMMU: 23 } as const;

/** Feature bit (6): the device reaches memory as its platform says: through an IOMMU, where there is one. */
export const F_ACCESS_PLATFORM = 1n << 33n;

/** Types of structures (4.1.4). */
export const Structure = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, CONFIG: 5 } as const;
/**
 * struct virtio_pci_cap behind ID, next and length: type, BAR, ID, padding, offset, length. A notify one has a multiplier too, one of
 * configuration access the window's data.
 */
export const CAPABILITY = {
  TYPE: 3,
  BAR: 4,
  OFFSET: 8,
  LENGTH: 12,
  MULTIPLIER: 16,
  CONFIG_DATA: 16,
  BYTES: 16,
  NOTIFY_BYTES: 20,
  CONFIG_BYTES: 20,
} as const;

/** struct virtio_pci_common_cfg (4.1.4.3). */
export const COMMON = {
  DEVICE_FEATURE_SELECT: 0,
  DEVICE_FEATURE: 4,
  DRIVER_FEATURE_SELECT: 8,
  DRIVER_FEATURE: 12,
  CONFIG_MSIX_VECTOR: 16,
  NUM_QUEUES: 18,
  DEVICE_STATUS: 20,
  CONFIG_GENERATION: 21,
  QUEUE_SELECT: 22,
  QUEUE_SIZE: 24,
  QUEUE_MSIX_VECTOR: 26,
  QUEUE_ENABLE: 28,
  QUEUE_NOTIFY_OFF: 30,
  QUEUE_DESC: 32,
  QUEUE_DRIVER: 40,
  QUEUE_DEVICE: 48,
  BYTES: 56,
} as const;
/** No vector is mapped (4.1.5.1.2.1). */
export const NO_VECTOR = 0xffff;

/** ISR status (4.1.4.5). */
export const Isr = { QUEUE: 1 << 0, CONFIG: 1 << 1 } as const;
