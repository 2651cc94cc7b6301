import type { VirtioDevice } from '../../virtqueue/index.ts';

/** A virtio device, whatever its transport. VirtioIommu is one. */
export interface VirtioModel {
  /** Status, features and queues. */
  readonly device: VirtioDevice;
  /** Fills `to` with the device's configuration from `offset` on. */
  readConfig(offset: number, to: Uint8Array): void;
  writeConfig(offset: number, from: Uint8Array): void;
  /** The driver has made buffers available. True: there is more to do than one call may; call again from another turn. */
  notify(queue: number): boolean;
}

/** What a transport needs to know of it besides. */
export interface VirtioDescription {
  /** Device type (5). */
  readonly type: number;
  readonly queues: number;
  /** Bytes of its configuration. */
  readonly configBytes: number;
  /** PCI class, subclass and programming interface. */
  readonly classCode: number;
  readonly model: VirtioModel;
}
