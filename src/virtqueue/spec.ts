/* Virtual I/O Device (VIRTIO) 1.4: what every device has. All fields are little-endian. */

/** Feature bits of every device (6). */
export const F_INDIRECT_DESC = 1n << 28n;
export const F_EVENT_IDX = 1n << 29n;
export const F_VERSION_1 = 1n << 32n;
export const F_RING_PACKED = 1n << 34n;

/** Device status bits (2.1). */
export const STATUS_ACKNOWLEDGE = 1;
export const STATUS_DRIVER = 2;
export const STATUS_DRIVER_OK = 4;
export const STATUS_FEATURES_OK = 8;
/** Only with F_SUSPEND, which nobody here offers. */
export const STATUS_SUSPEND = 16;
export const STATUS_NEEDS_RESET = 64;
