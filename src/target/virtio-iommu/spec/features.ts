/* Virtio 1.4, 5.13.3: feature bits of the IOMMU device. Those of every device: src/virtqueue/spec.ts. */

/** `input_range` says which addresses can be mapped. */
export const F_INPUT_RANGE = 1n << 0n;
/** `domain_range` says which domain numbers there are. */
export const F_DOMAIN_RANGE = 1n << 1n;
/** MAP and UNMAP requests. */
export const F_MAP_UNMAP = 1n << 2n;
/** Endpoints without a domain are in bypass mode; superseded by BYPASS_CONFIG. */
export const F_BYPASS = 1n << 3n;
/** PROBE requests. */
export const F_PROBE = 1n << 4n;
/** MAP_F_MMIO. */
export const F_MMIO = 1n << 5n;
/** `bypass` of the configuration space, ATTACH_F_BYPASS. */
export const F_BYPASS_CONFIG = 1n << 6n;

/** Virtqueues (5.13.2). */
export const REQUEST_QUEUE = 0;
export const EVENT_QUEUE = 1;
export const QUEUES = 2;
