/** The vfio-user protocol, version 0.0, as libvfio-user's docs/vfio-user.rst gives it. All fields are little-endian. */

/** Header of every message: id u16, command u16, size u32, flags u32, errno u32. */
export const HEADER = { ID: 0, COMMAND: 2, SIZE: 4, FLAGS: 8, ERROR: 12, BYTES: 16 } as const;
/** Bits of flags: type (1: a reply), no reply wanted, and that the errno counts. */
export const Flags = { TYPE: 0xf, REPLY: 1, NO_REPLY: 1 << 4, ERROR: 1 << 5 } as const;

export const Command = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  DEVICE_GET_INFO: 4,
  DEVICE_GET_REGION_INFO: 5,
  DEVICE_GET_IRQ_INFO: 7,
  DEVICE_SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  DMA_WRITE: 12,
  DEVICE_RESET: 13,
  REGION_WRITE_MULTI: 15,
} as const;

/** VERSION: major u16, minor u16, then JSON with an ending NUL. */
export const VERSION_BYTES = 4;

/** DMA_MAP: argsz u32, flags u32, offset u64, address u64, size u64. The file comes beside it. */
export const DMA_MAP = { FLAGS: 4, OFFSET: 8, ADDRESS: 16, SIZE: 24, BYTES: 32 } as const;
export const DmaMapFlags = { READ: 1 << 0, WRITE: 1 << 1 } as const;
/** DMA_UNMAP: argsz u32, flags u32, address u64, size u64. */
export const DMA_UNMAP = { FLAGS: 4, ADDRESS: 8, SIZE: 16, BYTES: 24 } as const;
export const DmaUnmapFlags = { DIRTY_BITMAP: 1 << 0, ALL: 1 << 1 } as const;

/** DEVICE_GET_INFO: argsz, flags, regions, interrupt types, each u32. */
export const DEVICE_INFO_BYTES = 16;
export const DeviceFlags = { RESET: 1 << 0, PCI: 1 << 1 } as const;
/** DEVICE_GET_REGION_INFO: argsz, flags, index, capability offset, each u32; size u64, offset u64. */
export const REGION_INFO_BYTES = 32;
export const RegionFlags = { READ: 1 << 0, WRITE: 1 << 1 } as const;
/** DEVICE_GET_IRQ_INFO: argsz, flags, index, count, each u32. */
export const IRQ_INFO_BYTES = 16;
export const IrqFlags = { EVENTFD: 1 << 0, MASKABLE: 1 << 1, AUTOMASKED: 1 << 2, NORESIZE: 1 << 3 } as const;
/** DEVICE_SET_IRQS: argsz, flags, index, start, count, each u32, then data; descriptors come beside it. */
export const SET_IRQS_BYTES = 20;
export const SetIrqs = { NONE: 1 << 0, BOOL: 1 << 1, EVENTFD: 1 << 2, MASK: 1 << 3, UNMASK: 1 << 4, TRIGGER: 1 << 5 } as const;

/** REGION_READ, REGION_WRITE: offset u64, region u32, count u32, then data. */
export const REGION_ACCESS = { OFFSET: 0, REGION: 8, COUNT: 12, BYTES: 16 } as const;
/** REGION_WRITE_MULTI: a count u64, then as many of these, each with 8 bytes of data. */
export const MULTI_BYTES = 24;
/** DMA_WRITE: address u64, count u64, then data. */
export const DMA_ACCESS_BYTES = 16;

/** Regions of a PCI device (VFIO): BARs 0 to 5, ROM, configuration space (here named), VGA. */
export const REGIONS = 9;
export const CONFIG_REGION = 7;
/** Its interrupt types. */
export const Irq = { INTX: 0, MSI: 1, MSIX: 2, ERROR: 3, REQUEST: 4 } as const;
export const IRQ_TYPES = 5;

/** What this side takes; said in VERSION's answer. */
export const LIMITS = {
  /** Descriptors beside one message. */
  descriptors: 16,
  /** Bytes of one access. */
  data: 1 << 20,
  /** Mappings at one time. */
  mappings: 4096,
} as const;
/** A message at most: the data, and the largest of what stands before it. */
export const MESSAGE_LIMIT = LIMITS.data + 4096;
