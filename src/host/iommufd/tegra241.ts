import { require64, requireBytes, requireInteger, requireObject } from '../../memory/arguments.ts';
import type { PortMemory } from '../port.ts';
import type { Handle, IommufdContext } from './context.ts';
import { type HardwareQueue, Viommu } from './viommu.ts';

/**
 * NVIDIA's CMDQV (Linux, drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c): a command queue that the hardware drains by itself.
 * An invalidation is four stores and a doorbell; no call to the kernel.
 */

/** enum iommu_viommu_type, and struct iommu_viommu_tegra241_cmdqv as its data: where the page is, and its bytes. */
const VIOMMU_TEGRA241 = 2;
const VIOMMU_BYTES = 16;
/** enum iommu_hw_queue_type */
const HW_QUEUE_TEGRA241 = 1;

/** 32-bit registers of one queue in page 0 of the VINTF, 128 bytes a queue. */
const QUEUE_WORDS = 32;
const CONS = 0;
const PROD = 1;
const CONFIG = 2;
const GERROR = 4;
const ENABLE = 1;

/** A vIOMMU with a virtual interface of its own (VINTF), and the page that its queues' registers lie in. */
export interface Vintf {
  readonly viommu: Viommu;
  readonly page: PortMemory;
}

/** @throws HostError EOPNOTSUPP where there is no CMDQV. */
export function createVintf(context: IommufdContext, device: Handle, parent: Handle): Vintf {
  const answer = new Uint8Array(VIOMMU_BYTES);
  const viommu = new Viommu(context, device, parent, VIOMMU_TEGRA241, answer);
  const view = new DataView(answer.buffer);
  try {
    return { viommu, page: viommu.mapPage(view.getBigUint64(0, true), Number(view.getBigUint64(8, true))) };
  } catch (error) {
    viommu.close();
    throw error;
  }
}

/**
 * One queue: its ring in memory that the hardware reaches, and its registers in the mapped page.
 *
 * @example
 * const kernel = simKernel({ iommus: [{ nesting: smmuv3({ tegra241: {} }) }] });
 * const host = new IommufdHost(kernel);
 * const device = host.openDevice(kernel.device().path);
 * const ram = kernel.allocate(64 * 4096);
 * const space = host.createSpace();
 * space.map(0, Number(ram.address >> 12n), 64, READ_WRITE); // 0
 * const parent = host.createPageTable(device, space, { nestParent: true });
 * const vintf = host.createVintf(device, parent);
 * const queue = new CommandQueue(vintf, 0, 0x4000n, new Uint8Array(ram.buffer, 0x4000, 256));
 * queue.enable();
 * queue.add(0x46, 0, 0, 0); // true: CMD_SYNC is in the ring
 * queue.ring(); // a store, no call
 * kernel.step();
 * queue.idle; // true
 * host.close();
 */
export class CommandQueue {
  readonly #ring: Int32Array;
  readonly #registers: Int32Array;
  readonly #at: number;
  readonly #entries: number;
  #produced = 0;

  /** The kernel's part: it keeps the memory of the ring mapped, and goes before that of a lower index. */
  readonly hardware: HardwareQueue;

  /**
   * Queues are made in ascending order. `ring`: the queue's memory, a power of two of bytes that is aligned to its size at the
   * guest-physical address `base`. @throws HostError
   */
  constructor(vintf: Vintf, index: number, base: bigint, ring: Uint8Array) {
    requireObject('CommandQueue', 'vintf', vintf);
    requireObject('CommandQueue', 'viommu', vintf.viommu, 'Viommu', ['createHardwareQueue']);
    requireInteger('CommandQueue', 'index', index, 0, 0xffff);
    require64('CommandQueue', 'base', base);
    requireBytes('CommandQueue', 'ring', ring);
    const { viommu, page } = vintf;
    this.hardware = viommu.createHardwareQueue(HW_QUEUE_TEGRA241, index, base, ring.byteLength);
    this.#registers = new Int32Array(page.buffer, 0, page.bytes / 4);
    this.#at = index * QUEUE_WORDS;
    this.#ring = new Int32Array(ring.buffer, ring.byteOffset, ring.byteLength / 4);
    this.#entries = ring.byteLength / 16;
  }

  enable(): void {
    Atomics.store(this.#registers, this.#at + CONFIG, ENABLE);
  }

  /** Adds a command of four words (IHI 0070, chapter 4). False: the queue is full. */
  add(word0: number, word1: number, word2: number, word3: number): boolean {
    if (this.#waiting() === this.#entries) return false;
    const at = (this.#produced & (this.#entries - 1)) * 4;
    const ring = this.#ring;
    ring[at] = word0;
    ring[at + 1] = word1;
    ring[at + 2] = word2;
    ring[at + 3] = word3;
    this.#produced = (this.#produced + 1) & (2 * this.#entries - 1);
    return true;
  }

  /** The doorbell: what was added is the hardware's. */
  ring(): void {
    Atomics.store(this.#registers, this.#at + PROD, this.#produced);
  }

  /** The hardware has done all that was handed to it. */
  get idle(): boolean {
    return this.#waiting() === 0;
  }

  /** The hardware has stopped at a command that it does not take; its number stands at the consumer index. */
  get failed(): boolean {
    return (Atomics.load(this.#registers, this.#at + GERROR) & 1) !== 0;
  }

  /** Visits what was added and not consumed, in order. */
  unconsumed(visit: (word0: number, word1: number, word2: number, word3: number) => void): void {
    const ring = this.#ring;
    for (let left = this.#waiting(); left > 0; left--) {
      const at = ((this.#produced - left) & (this.#entries - 1)) * 4;
      visit(ring[at], ring[at + 1], ring[at + 2], ring[at + 3]);
    }
  }

  #waiting(): number {
    const mask = 2 * this.#entries - 1;
    return (this.#produced - Atomics.load(this.#registers, this.#at + CONS)) & mask;
  }
}
