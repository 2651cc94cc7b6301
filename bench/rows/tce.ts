import { READ } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE, H_PUT_TCE_INDIRECT, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { EmulatedDevice } from '../../src/vmm/index.ts';
import type { Row, Work } from '../row.ts';

/** As in bench/baseline/tce.c. */
const LIOBN = 0x8000_0000;
const START = 0x8000_0000;
const WINDOW_PAGES = 1 << 18;
const RAM_BYTES = 64 * 2 ** 20;
const LIST = RAM_BYTES - 2 * 4096;
const ENDPOINT = 0x100;
/** Int32 places of GPRs 4 to 7: the low half, then the high half. */
const R4 = 8;
const R5 = 10;
const R6 = 12;
const R7 = 14;

/** The low half of a page's TCE, another one each round; the high half is 0. */
const tceOf = (page: number, round: number) => (((page * 7 + round) & 0x3fff) << 12) | 3;

/** A pseries guest's IOMMU with one window of 1 GiB, nobody backing it with hardware. */
class Guest {
  readonly memory = GuestMemory.ofBytes(RAM_BYTES);
  readonly registers = new HypercallRegisters();
  readonly iommu = new SpaprIommu({
    memory: this.memory,
    bridges: [{ buid: 1n, endpoints: [ENDPOINT], windows: [{ liobn: LIOBN, start: BigInt(START), pageLg2: 12, pages: WINDOW_PAGES }] }],
  });
  round = 0;

  /** What the table holds, of one page in 128. */
  look(): number {
    const { iommu } = this;
    let sum = 0;
    for (let page = 0; page < WINDOW_PAGES >> 2; page += 128) {
      const at = START + page * 4096;
      if (iommu.translate(ENDPOINT, NO_PASID, (at / 2 ** 32) | 0, at | 0, READ) > 0) sum = (sum + iommu.translated[0]) | 0;
    }
    return sum;
  }
}

/** Puts a TCE other than the one there into page after page. */
function put(): Work {
  const guest = new Guest();
  const { iommu, registers } = guest;
  const r = registers.i32;
  const operations = 1 << 14;
  const batch = () => {
    const { round } = guest;
    // Imported ones are loaded and checked at each use.
    const opcode = H_PUT_TCE;
    let sum = 0;
    for (let i = 0; i < operations; i++) {
      r[R4] = LIOBN | 0;
      r[R5] = (START | 0) + (i << 12);
      r[R6] = tceOf(i, round);
      sum = (sum + iommu.hypercall(opcode, registers) + 1) | 0;
    }
    return (sum + guest.look()) | 0;
  };
  return { operations, before: () => guest.round++, batch };
}

/** Puts lists of 512 TCEs, all of which change what is there. */
function indirect(): Work {
  const guest = new Guest();
  const { iommu, memory, registers } = guest;
  const r = registers.i32;
  const operations = 1 << 8;
  const before = () => {
    guest.round++;
    for (let list = 0; list < 2; list++) {
      for (let i = 0; i < 512; i++) memory.store64BE(0, LIST + 4096 * list + 8 * i, 0, tceOf(i, guest.round + list));
    }
  };
  const batch = () => {
    let sum = 0;
    for (let i = 0; i < operations; i++) {
      r[R4] = LIOBN | 0;
      r[R5] = START + ((i >> 1) << 21);
      r[R6] = LIST + 4096 * (i & 1);
      r[R7] = 512;
      sum = (sum + iommu.hypercall(H_PUT_TCE_INDIRECT, registers) + 1) | 0;
    }
    return (sum + guest.look()) | 0;
  };
  return { operations, before, batch };
}

/** Reads by an emulated device at the start of random pages. */
function dmaRead(bytes: number): Work {
  const guest = new Guest();
  const { iommu, memory, registers } = guest;
  const r = registers.i32;
  for (let page = 0; page < WINDOW_PAGES; page++) {
    const at = START + page * 4096;
    r[R4] = LIOBN | 0;
    r[R5] = at;
    r[R6] = tceOf(page, 0);
    if (iommu.hypercall(H_PUT_TCE, registers) !== 0) throw new Error(`page ${page} was not mapped`);
  }
  for (let at = 0; at < RAM_BYTES; at += 4) memory.store32(0, at, Math.imul(at, 0x9e3779b1));
  const device = new EmulatedDevice(ENDPOINT, iommu, memory);
  const to = new Uint8Array(bytes);
  const operations = 1 << 9;
  const batch = () => {
    let sum = 0;
    for (let i = 0; i < operations; i++) {
      const page = Math.imul(i, 0x9e3779b1) >>> 14;
      sum = (sum + device.transfer(0, (START + page * 4096) | 0, to, READ, NO_PASID) + to[0] + to[bytes - 1]) | 0;
    }
    return sum;
  };
  return { operations, batch };
}

const BASELINE = 'the same hypercall in C';

export const putTce: Row = {
  name: 'put-tce',
  baseline: BASELINE,
  variants: [{ name: 'one TCE', goal: 3, baseline: { program: 'tce', arguments: ['put'] }, setup: put }],
};

export const putTceIndirect: Row = {
  name: 'put-tce-indirect',
  baseline: BASELINE,
  variants: [{ name: '512 TCEs', goal: 2, baseline: { program: 'tce', arguments: ['indirect'] }, setup: indirect }],
};

export const dma: Row = {
  name: 'dma-read',
  baseline: 'the same translation and copy in C',
  variants: [
    { name: '64 B', goal: 4, baseline: { program: 'tce', arguments: ['read', '64'] }, setup: () => dmaRead(64) },
    { name: '4 KiB', goal: 2, baseline: { program: 'tce', arguments: ['read', '4096'] }, setup: () => dmaRead(4096) },
  ],
};
