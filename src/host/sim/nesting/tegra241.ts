import { errno } from '../../errno.ts';
import type { Frames, PhysicalMemory } from '../memory.ts';
import { Struct, type UserBuffer } from '../structs.ts';
import type { HardwareQueues, StreamLookup } from './model.ts';
import type { SmmuCaches } from './smmuv3-caches.ts';
import { userStruct } from './user-struct.ts';

/**
 * NVIDIA's CMDQV beside an SMMUv3: a virtual interface (VINTF) with command queues that a guest fills and the hardware
 * drains, without the kernel. Facts of its registers: Linux, drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c.
 */

const INFO_TEGRA241 = 3;
export const VIOMMU_TEGRA241 = 2;
const QUEUE_TEGRA241 = 1;

/** struct iommu_hw_info_tegra241_cmdqv */
const hwInfoTegra = new Struct({ flags: 'u32', version: 'u8', log2vcmdqs: 'u8', log2vsids: 'u8', reserved: 'u8' });
/** struct iommu_viommu_tegra241_cmdqv */
const viommuTegra = new Struct({ out_vintf_mmap_offset: 'u64', out_vintf_mmap_length: 'u64' });

/** Page 0 of the VINTF: 128 bytes a queue. */
const PAGE0_BYTES = 0x1_0000;
const QUEUE_STRIDE = 0x80;
const CONS = 0x00;
const PROD = 0x04;
const CONFIG = 0x08;
const STATUS = 0x0c;
const GERROR = 0x10;
const ENABLE = 1;
const ENTRY_BYTES = 16;
/** CONS.ERR, bits 30:24: an illegal command. GERROR bit 0: the queue has stopped at an error. */
const CERROR_ILLEGAL = 1 << 24;

export interface TegraConfig {
  /** lg2 of the queues that there are for a guest. Default 1. */
  readonly log2vcmdqs?: number;
  readonly log2vsids?: number;
  /** lg2 of the entries that a queue may have (IDR1.CMDQS). Default 8. */
  readonly queueLg2?: number;
}

export function tegraInfo(type: number, config: TegraConfig): Uint8Array | null {
  if (type !== INFO_TEGRA241) return null;
  const data = new Uint8Array(hwInfoTegra.bytes);
  hwInfoTegra.encode(data, { version: 1, log2vcmdqs: config.log2vcmdqs ?? 1, log2vsids: config.log2vsids ?? 4 });
  return data;
}

/** The caller must want to know where its page is: 0 or a negative errno. */
export function checkVintf(answer: UserBuffer | null): number {
  if (answer === null) return -errno.EINVAL;
  const checked = userStruct(viommuTegra, 'out_vintf_mmap_length', answer);
  return typeof checked === 'number' ? checked : 0;
}

/** The offset names the page to mmap of the iommufd. 0 or -EFAULT. */
export function answerVintf(answer: UserBuffer, queues: TegraQueues): number {
  const bytes = new Uint8Array(viommuTegra.bytes);
  viommuTegra.encode(bytes, { out_vintf_mmap_offset: BigInt(queues.page.offset), out_vintf_mmap_length: BigInt(PAGE0_BYTES) });
  return answer.write(bytes.subarray(0, answer.bytes)) ? 0 : -errno.EFAULT;
}

interface Queue {
  readonly base: number;
  readonly entries: number;
}

export class TegraQueues implements HardwareQueues {
  readonly type = QUEUE_TEGRA241;
  readonly page: { readonly frames: Frames; readonly offset: number };
  readonly #physical: PhysicalMemory;
  readonly #caches: SmmuCaches;
  readonly #queues: Queue[] = [];
  readonly #limit: number;
  readonly #largest: number;
  readonly #registers: DataView;

  constructor(physical: PhysicalMemory, config: TegraConfig, caches: SmmuCaches, place: (bytes: number) => number) {
    this.#physical = physical;
    this.#caches = caches;
    this.#limit = 2 ** (config.log2vcmdqs ?? 1);
    this.#largest = ENTRY_BYTES * 2 ** (config.queueLg2 ?? 8);
    this.page = { frames: physical.allocate(PAGE0_BYTES), offset: place(PAGE0_BYTES) };
    this.#registers = new DataView(this.page.frames.buffer);
  }

  /** Queues are made in ascending order, of 2^n bytes from 32 on, aligned to their size in guest-physical memory. */
  add(index: number, base: number, guestBase: bigint, bytes: number): number {
    if (index >= this.#limit) return -errno.EINVAL;
    if (index < this.#queues.length) return -errno.EEXIST;
    if (index > this.#queues.length) return -errno.EIO;
    if (bytes < 32 || bytes > this.#largest || !Number.isInteger(Math.log2(bytes)) || guestBase % BigInt(bytes) !== 0n)
      return -errno.EINVAL;
    this.#queues.push({ base, entries: bytes / ENTRY_BYTES });
    return 0;
  }

  remove(index: number): void {
    this.#queues.splice(index, 1);
    for (let offset = 0; offset < QUEUE_STRIDE; offset += 4) this.#registers.setUint32(index * QUEUE_STRIDE + offset, 0, true);
  }

  run(device: StreamLookup): void {
    for (const [index, queue] of this.#queues.entries()) this.#drain(index * QUEUE_STRIDE, queue, device);
  }

  /** Indices count entries and wrap with one bit more than the queue needs, as in every SMMUv3 queue (IHI 0070, 3.5.1). */
  #drain(at: number, queue: Queue, device: StreamLookup): void {
    const registers = this.#registers;
    const enabled = registers.getUint32(at + CONFIG, true) & ENABLE;
    registers.setUint32(at + STATUS, enabled, true);
    if (enabled === 0 || (registers.getUint32(at + GERROR, true) & 1) !== 0) return;
    const mask = 2 * queue.entries - 1;
    const produced = registers.getUint32(at + PROD, true) & mask;
    let consumed = registers.getUint32(at + CONS, true) & mask;
    for (let left = queue.entries; consumed !== produced && left > 0; left--) {
      const address = queue.base + (consumed & (queue.entries - 1)) * ENTRY_BYTES;
      // While there is a queue, its access has its memory pinned.
      const frames = this.#physical.find(address)!;
      const entry = new DataView(frames.buffer, address - frames.first, ENTRY_BYTES);
      if (this.#caches.queued(entry.getBigUint64(0, true), entry.getBigUint64(8, true), device) < 0) {
        registers.setUint32(at + GERROR, 1, true);
        consumed |= CERROR_ILLEGAL;
        break;
      }
      consumed = (consumed + 1) & mask;
    }
    registers.setUint32(at + CONS, consumed, true);
  }
}
