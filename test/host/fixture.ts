import type { Host, HostDevice } from '../../src/host/host.ts';
import type { Port } from '../../src/host/port.ts';

/** A device that can be told to do DMA: what really happens in memory is the judge. */
export interface DmaOracle {
  /** The device reads 4 bytes at the IOVA; null when the access was refused. */
  read(device: HostDevice, iova: bigint): Uint8Array | null | Promise<Uint8Array | null>;
  /** The device writes these 4 bytes at the IOVA; false when the access was refused. */
  write(device: HostDevice, iova: bigint, bytes: Uint8Array): boolean | Promise<boolean>;
}

/** A machine for one case. */
export interface HostFixture {
  readonly port: Port;
  readonly host: Host;
  /** VFIO nodes of devices that share no IOMMU group, at least one, as `openDevice` wants them. */
  readonly devices: readonly string[];
  readonly dma: DmaOracle;
  /** Makes the next kernel call fail, where that can be done. Ends it, and says whether there was such a call. */
  failNext?(errno: number): () => boolean;
  /** Closes the host. @throws when something of the case is still alive in the kernel. */
  close(): void | Promise<void>;
}
