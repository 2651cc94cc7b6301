import { READ, WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { NO_PASID, type Target } from '../../target/target.ts';
import { faultName } from '../../vmm/fault-name.ts';
import { hex } from '../../vmm/recording-lines.ts';
import type { DmaEngine } from './rig.ts';
import { Tally } from './tally.ts';

/** Bytes of one hardware DMA: a marker that no other access has. */
const MARKER_BYTES = 8;

/** One recorded access and what it must come to. */
export interface ExpectedDma {
  readonly endpoint: number;
  /** Left out: none. Hardware does no DMA that carries one. */
  readonly pasid?: number;
  readonly iova: bigint;
  /** Where it lands: guest-physical address of the same byte. */
  readonly gpa: bigint;
  /** Permission bits that must work. */
  readonly allowed: number;
  /** Permission bits that must fault. */
  readonly forbidden: number;
  /** The target's own fault code of what is forbidden, where the recording has it. */
  readonly fault?: number;
  /** Where the access was recorded, for messages. */
  readonly line: number;
}

/** Does a recorded DMA twice, by the target's software translation and by the passed-through device, and compares where it lands. */
export class DmaCheck {
  readonly software = new Tally();
  readonly hardware = new Tally();
  readonly #target: Target;
  readonly #memory: GuestMemory;
  readonly #engines: ReadonlyMap<number, DmaEngine>;
  readonly #stride: number;
  readonly #readsAll: (endpoint: number) => boolean;
  /** Reads of write-only pages that went through, where `readsAll` says that they do. */
  readsOfWriteOnly = 0;
  #seen = 0;
  readonly #marker = new Uint8Array(MARKER_BYTES);
  readonly #read = new Uint8Array(MARKER_BYTES);
  readonly #marker64 = new BigUint64Array(this.#marker.buffer);

  /**
   * `engines` by endpoint; `stride`: the devices do every how many-th access; `readsAll`: the endpoint is behind tables that have no
   * write-only pages (docs/paths.md).
   */
  constructor(
    target: Target,
    memory: GuestMemory,
    engines: ReadonlyMap<number, DmaEngine>,
    stride: number,
    readsAll: (endpoint: number) => boolean,
  ) {
    this.#target = target;
    this.#memory = memory;
    this.#engines = engines;
    this.#stride = stride;
    this.#readsAll = readsAll;
  }

  check(dma: ExpectedDma): void {
    this.checkSoftware(dma);
    this.checkHardware(dma);
  }

  /** What the passed-through device does, where there is one. */
  checkHardware(dma: ExpectedDma): void {
    const engine = this.#engines.get(dma.endpoint);
    if (engine === undefined || (dma.pasid ?? NO_PASID) !== NO_PASID || !this.#isSeen(dma)) return;
    if (this.#seen++ % this.#stride === 0) this.#checkDevice(dma, engine, whereOf(dma));
  }

  /** What reaches no RAM (a message to an interrupt controller) arrives where nobody can look. */
  #isSeen({ allowed, gpa }: ExpectedDma): boolean {
    return allowed === 0 || this.#memory.read(hiOf(gpa), loOf(gpa), this.#read, 0, 1) === 0;
  }

  checkSoftware(dma: ExpectedDma): void {
    const { endpoint, pasid = NO_PASID, iova, gpa } = dma;
    const where = whereOf(dma);
    for (const access of [READ, WRITE]) {
      const verb = access === READ ? 'read' : 'write';
      if (dma.allowed & access) {
        const found = this.#translate(endpoint, pasid, iova, access);
        this.software.check(
          found === gpa,
          () => `${where}: software ${verb} reaches ${found === null ? 'a fault' : hex(found)}, not ${hex(gpa)}`,
        );
      } else if (dma.forbidden & access) {
        const code = this.#target.translate(endpoint, pasid, hiOf(iova), loOf(iova), access);
        const { fault = code } = dma;
        this.software.check(
          code < 0 && code === fault,
          () =>
            `${where}: software ${verb} is forbidden and ${code < 0 ? `ends with ${faultName(code)}, not ${faultName(fault)}` : 'goes through'}`,
        );
      }
    }
  }

  #translate(endpoint: number, pasid: number, iova: bigint, access: number): bigint | null {
    const lg2 = this.#target.translate(endpoint, pasid, hiOf(iova), loOf(iova), access);
    return lg2 < 0 ? null : joinHiLo(this.#target.translated[1], this.#target.translated[0]);
  }

  #checkDevice(dma: ExpectedDma, engine: DmaEngine, where: string): void {
    // The marker must not leave the page that was recorded.
    const iova = dma.iova & ~0x7n;
    const gpa = dma.gpa & ~0x7n;
    if (engine.read !== null) this.#checkRead(dma, engine.read, iova, gpa, where);
    if (dma.allowed & WRITE) {
      this.#newMarker();
      // A device with a pattern of its own may have left it there before.
      this.#memory.write(hiOf(gpa), loOf(gpa), this.#read, 0, MARKER_BYTES);
      const right =
        engine.write(iova, this.#marker) && this.#memory.read(hiOf(gpa), loOf(gpa), this.#read, 0, MARKER_BYTES) === 0 && this.#same();
      this.hardware.check(right, () => `${where}: what the device writes does not arrive at ${hex(gpa)}`);
    } else if (dma.forbidden & WRITE) {
      this.#newMarker();
      this.hardware.check(!engine.write(iova, this.#marker), () => `${where}: the device writes where it must not`);
    }
  }

  #checkRead(dma: ExpectedDma, read: NonNullable<DmaEngine['read']>, iova: bigint, gpa: bigint, where: string): void {
    if (dma.allowed & READ) {
      this.#newMarker();
      const stored = this.#memory.write(hiOf(gpa), loOf(gpa), this.#marker, 0, MARKER_BYTES);
      const right = stored === 0 && read(iova, this.#read) && this.#same();
      this.hardware.check(right, () => `${where}: the device does not read what is at ${hex(gpa)}`);
    } else if (dma.forbidden & READ) {
      const isRead = read(iova, this.#read);
      const isExcused = isRead && this.#isWriteOnly(dma);
      if (isExcused) this.readsOfWriteOnly++;
      this.hardware.check(!isRead || isExcused, () => `${where}: the device reads what it must not`);
    }
  }

  /** The page can be written and not read, and the hardware has no such. */
  #isWriteOnly({ endpoint, pasid = NO_PASID, iova }: ExpectedDma): boolean {
    return this.#readsAll(endpoint) && this.#translate(endpoint, pasid, iova, WRITE) !== null;
  }

  #newMarker(): void {
    // An odd multiplier: 2^64 markers before one comes again.
    this.#marker64[0] = this.#marker64[0] * 0x9e3779b97f4a7c15n + 0x2545f4914f6cdd1dn;
    this.#read.fill(0);
  }

  #same(): boolean {
    return this.#read.every((byte, i) => byte === this.#marker[i]);
  }
}

function whereOf({ line, endpoint, iova }: ExpectedDma): string {
  return `line ${line}: endpoint ${hex(endpoint)} iova ${hex(iova)}`;
}
