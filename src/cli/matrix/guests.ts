import { hiOf, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { AmdIommu } from '../../target/amd/index.ts';
import { CQB, CQCSR, DDTP, DdtMode, RiscvIommu } from '../../target/riscv/index.ts';
import { Smmuv3 } from '../../target/smmuv3/index.ts';
import { SpaprIommu } from '../../target/spapr/index.ts';
import type { Target } from '../../target/target.ts';
import { VirtioIommu } from '../../target/virtio-iommu/index.ts';
import { VtdIommu } from '../../target/vtd/index.ts';
import { GeneralRegisters, MPCIFC, ZpciIommu } from '../../target/zpci/index.ts';

/** RAM that a guest here wants. */
export const RAM_BYTES = 1 << 20;
/** The endpoint behind each guest's IOMMU. */
export const ENDPOINT = 8;

/** A target with a guest's driver started on it: its endpoint is translated by tables, or requests, that map nothing yet. */
export interface StartedGuest {
  readonly title: string;
  readonly start: (memory: GuestMemory) => Target;
}

/** One line a target, or two where its guests have two ways. Structures lie in the first pages of RAM. */
export const guests: Readonly<Record<string, StartedGuest>> = {
  spapr: { title: 'PPC sPAPR TCE', start: startSpapr },
  'virtio-iommu': { title: 'virtio-iommu', start: startVirtio },
  vtd: { title: 'Intel VT-d, second stage with caching mode', start: startVtd },
  'vtd-scalable': { title: 'Intel VT-d, scalable mode, first stage', start: startScalable },
  amd: { title: 'AMD-Vi, host tables with NpCache', start: startAmd },
  smmuv3: { title: 'Arm SMMUv3, stage 1', start: startSmmu },
  riscv: { title: 'RISC-V IOMMU, first stage', start: startRiscv },
  zpci: { title: 's390 zPCI', start: startZpci },
};

function store(memory: GuestMemory, at: number, ...words: readonly bigint[]): void {
  for (const [i, word] of words.entries()) memory.store64(0, at + 8 * i, hiOf(word), loOf(word));
}

function startSpapr(memory: GuestMemory): Target {
  const window = { liobn: 0x8000_0000, start: 0n, pageLg2: 12, pages: 1 << 18 };
  return new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [ENDPOINT], windows: [window] }] });
}

function startVirtio(memory: GuestMemory): Target {
  const target = new VirtioIommu({ memory, bootBypass: false });
  target.addEndpoint(ENDPOINT);
  target.negotiate();
  target.attach(1, ENDPOINT);
  return target;
}

/** Root table in page 1, context table in page 2, second-stage tables in page 4 (9.1, 9.3). */
function startVtd(memory: GuestMemory): Target {
  const target = new VtdIommu({}, { memory });
  store(memory, 0x1000, 0x2000n | 1n);
  store(memory, 0x2000 + 16 * ENDPOINT, 0x4000n | 1n, (7n << 8n) | 2n);
  return translating(target, 0x1000n);
}

/** The same with a PASID directory in page 3, its table in page 5, first-stage tables in page 4 (9.4 to 9.6). */
function startScalable(memory: GuestMemory): Target {
  const target = new VtdIommu({ scalableMode: true }, { memory });
  store(memory, 0x1000, 0x2000n | 1n);
  store(memory, 0x2000 + 32 * ENDPOINT, 0x3000n | 9n);
  store(memory, 0x3000, 0x5000n | 1n);
  store(memory, 0x5000, (1n << 6n) | 1n, 7n, 0x4000n);
  return translating(target, 0x1000n | (1n << 10n));
}

/** RTADDR, then GCMD.SRTP, then GCMD.TE. */
function translating(target: VtdIommu, rootTable: bigint): Target {
  target.addEndpoint(ENDPOINT);
  target.write(0x20, 8, rootTable);
  target.write(0x18, 4, 1n << 30n);
  target.write(0x18, 4, 1n << 31n);
  return target;
}

/** Device table in page 1, three levels of host tables in page 4 (2.2.2.1). */
function startAmd(memory: GuestMemory): Target {
  const target = new AmdIommu({ memory });
  target.addEndpoint(ENDPOINT);
  store(memory, 0x1000 + 32 * ENDPOINT, 3n | (3n << 9n) | 0x4000n | (3n << 61n), 7n);
  target.write(0x00, 8, 0x1000n);
  target.write(0x18, 8, 1n);
  return target;
}

/** Stream table of 16 entries in page 4, a context descriptor in page 8, 4K tables of 48 bits in page 9 (5.2, 5.4). */
function startSmmu(memory: GuestMemory): Target {
  const target = new Smmuv3({ memory });
  target.addEndpoint(ENDPOINT);
  store(memory, 0x4000 + 64 * ENDPOINT, 1n | (5n << 1n) | 0x8000n, 0n);
  store(memory, 0x8000, 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (3n << 45n) | (1n << 48n), 0x9000n);
  target.write(0x80, 8, 0x4000n);
  target.write(0x88, 4, 4n);
  target.write(0x20, 4, 1n);
  return target;
}

/** Device directory of one level in page 1, commands in page 2, Sv39 tables in page 4. */
function startRiscv(memory: GuestMemory): Target {
  const target = new RiscvIommu({}, { memory });
  target.addEndpoint(ENDPOINT);
  store(memory, 0x1000 + 64 * ENDPOINT, 1n, 0n, 1n << 12n, (8n << 60n) | 4n);
  target.write(CQB, 8, (2n << 10n) | 7n);
  target.write(CQCSR, 4, 1n);
  target.write(DDTP, 8, (1n << 10n) | BigInt(DdtMode.oneLevel));
  return target;
}

/** FIB in page 1, a segment table without any segment in pages 16 to 19. */
function startZpci(memory: GuestMemory): Target {
  const last = 0x7fff_ffffn;
  const target = new ZpciIommu({ memory, functions: [{ fid: ENDPOINT, aperture: { start: 0n, last } }] });
  const block = new DataView(new ArrayBuffer(64));
  block.setUint32(0, 0x0020_0005);
  block.setUint32(16, 0x2_0000);
  block.setUint32(20, 1);
  block.setUint16(32, 32);
  target.clp(new Uint8Array(block.buffer));
  for (let i = 0; i < 2048; i++) memory.store64BE(0, 0x10000 + 8 * i, 0, 0x20);
  for (const [at, value] of [
    [0x1018, last],
    [0x1020, 0x10000n | 0x800n],
  ] as const)
    memory.store64BE(0, at, hiOf(value), loOf(value));
  const registers = new GeneralRegisters();
  registers.u64[1] = (0x8002_0000n << 32n) | BigInt(MPCIFC.registerTranslation);
  target.mpcifc(registers, 1, 0x1000n);
  return target;
}
