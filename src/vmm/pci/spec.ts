/** Configuration space as declared by PCI Express Base 5.0: registers of a type 0 header (7.5.1), of capabilities (7.5.2, 7.5.3, 7.7, 7.8, 10.5). */

export const CONFIG_BYTES = 4096;
/** Size of the part that the 256-byte mechanism reaches, and where extended capabilities begin (7.6). */
export const CONVENTIONAL_BYTES = 256;
/** Where capabilities begin: behind the header. */
export const HEADER_BYTES = 64;

/** Registers of the header (7.5.1.1, 7.5.1.2). */
export const VENDOR_ID = 0x00;
export const DEVICE_ID = 0x02;
export const COMMAND = 0x04;
export const STATUS = 0x06;
export const REVISION_ID = 0x08;
/** Programming interface, subclass and class, 3 bytes. */
export const CLASS_CODE = 0x09;
export const HEADER_TYPE = 0x0e;
export const BAR0 = 0x10;
export const SUBSYSTEM_VENDOR_ID = 0x2c;
export const SUBSYSTEM_ID = 0x2e;
export const CAPABILITIES_POINTER = 0x34;
export const INTERRUPT_LINE = 0x3c;
export const INTERRUPT_PIN = 0x3d;

/** Of a bridge (type 1, 7.5.1.3): bus numbers, then the windows of addresses that lie behind it. */
export const BRIDGE_HEADER = 1;
export const PRIMARY_BUS = 0x18;
export const SECONDARY_BUS = 0x19;
export const SUBORDINATE_BUS = 0x1a;
export const MEMORY_BASE = 0x20;
export const MEMORY_LIMIT = 0x22;
export const PREFETCHABLE_BASE = 0x24;
export const PREFETCHABLE_LIMIT = 0x26;
export const PREFETCHABLE_BASE_UPPER = 0x28;
export const PREFETCHABLE_LIMIT_UPPER = 0x2c;

/** Command register (7.5.1.1.3). */
export const Command = { IO: 1 << 0, MEMORY: 1 << 1, BUS_MASTER: 1 << 2, INTX_DISABLE: 1 << 10 } as const;
/** The bits of it that software can write: those, parity error response and SERR# enable. */
export const COMMAND_WRITABLE = 0x0547;
/** Status register (7.5.1.1.4). */
export const Status = { INTERRUPT: 1 << 3, CAPABILITIES: 1 << 4 } as const;
/** Error bits, which a written 1 clears. */
export const STATUS_CLEARS = 0xf900;

/** Capability IDs (PCI Code and ID Assignment 1.11, 2). */
export const CapabilityId = { POWER: 0x01, MSI: 0x05, VENDOR: 0x09, EXPRESS: 0x10, MSIX: 0x11 } as const;
/** Extended capability IDs (the same, 3). */
export const ExtendedId = { ATS: 0x0f, PRI: 0x13, PASID: 0x1b } as const;
/** PASID capability (7.8.9.3): its control register, from its start, and the bit that lets the function use them. */
export const PASID_CONTROL = 6;
export const PASID_ENABLE = 1;

/** Power management capability (7.5.2): offsets from its start. */
export const POWER_CAPABILITIES = 2;
export const POWER_CONTROL = 4;
export const PowerControl = { STATE: 3, NO_SOFT_RESET: 1 << 3 } as const;
/** Values of its state, besides two that are optional, and not here. */
export const D0 = 0;
export const D3_HOT = 3;

/** PCI Express capability (7.5.3): offsets from its start, and bits. */
export const DEVICE_CAPABILITIES = 4;
export const DEVICE_CONTROL = 8;
export const FUNCTION_LEVEL_RESET = 1 << 28;
export const DeviceControl = { MAX_PAYLOAD: 7 << 5, INITIATE_RESET: 1 << 15 } as const;

/** MSI capability (7.7.1): offsets from its start. Data lies at 8 or, with 64-bit addresses, at 12; mask and pending bits follow. */
export const MSI_CONTROL = 2;
export const MSI_ADDRESS = 4;
export const MSI_UPPER_ADDRESS = 8;
export const MsiControl = { ENABLE: 1 << 0, CAPABLE_SHIFT: 1, ENABLED_SHIFT: 4, ENABLED: 7 << 4, WIDE: 1 << 7, MASKABLE: 1 << 8 } as const;

/** MSI-X capability (7.7.2): offsets from its start. */
export const MSIX_CONTROL = 2;
export const MSIX_TABLE = 4;
export const MSIX_PBA = 8;
export const MsixControl = { MASK_ALL: 1 << 14, ENABLE: 1 << 15 } as const;
/** An entry of its table: address, upper address, data, vector control (7.7.2.3 to 7.7.2.6). */
export const MSIX_ENTRY_BYTES = 16;
export const MSIX_VECTOR_MASKED = 1;
