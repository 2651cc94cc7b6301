import { type StageOne, smmuv3Stage1 } from '../../../src/host/iommufd/index.ts';
import {
  ASID,
  CD,
  CD_GOOD,
  cfgiCd,
  gpaOfPage,
  outcome,
  PAGE_A,
  PTE,
  QUEUE_DEPTH,
  RAM_PAGES,
  type SmmuCommand,
  SmmuGuest,
  type SmmuMachine,
  STE_S1,
  STREAM,
  tlbiVa,
  withAsid,
} from './smmu-guest.ts';

/*
 * Some 150 operations on an SMMUv3 that nests: what a device reaches, which events the guest is told, which commands and entries the kernel takes. The
 * same list runs on the real kernel in the arm64 VM and on the simulated one; the two transcripts must be the same.
 */

type Report = (what: string, ...results: readonly unknown[]) => void;

/** An IOVA that leads to page A while nothing else is said. */
const IOVA = 0x5000;

function faults(guest: SmmuGuest, report: Report): void {
  report('a page that is not mapped', guest.hit(0x7000), guest.events());
  guest.entry(0x8000, guest.leaf(PAGE_A) | PTE.readOnly);
  report('a read-only page', guest.hit(0x8000), guest.events());
  guest.entry(0x9000, guest.leaf(PAGE_A) & ~PTE.accessed);
  report('an access flag of 0', guest.hit(0x9000), guest.events());
  guest.entry(0xa000, (guest.leaf(PAGE_A) & 0xfffn) | (1n << 44n));
  report('an output address of 2^44', guest.hit(0xa000), guest.events());
  guest.entry(0xb000, guest.leaf(RAM_PAGES));
  report('a page that the parent has not', guest.hit(0xb000), guest.events());
  report('an input address of 2^48', guest.hit(1n << 48n), guest.events());
  report('an input address of the upper half', guest.hit(0xffff_0000_0000_5000n), guest.events());
  for (let fault = 0; fault < QUEUE_DEPTH + 3; fault++) guest.hit(0x10_0000 + fault * 4096);
  report(`${QUEUE_DEPTH + 3} faults in a queue of ${QUEUE_DEPTH}`, guest.events());
}

const descriptors: readonly (readonly [string, bigint])[] = [
  ['V 0', CD_GOOD & ~CD.V],
  ['AA64 0', CD_GOOD & ~CD.AA64],
  ['A 0', CD_GOOD & ~CD.A],
  ['S 1', CD_GOOD | CD.S],
  ['HA 1', CD_GOOD | CD.HA],
  ['HA 1, HD 1', CD_GOOD | CD.HA | CD.HD],
  ['ENDI 1', CD_GOOD | CD.ENDI],
  ['T0SZ 15', (CD_GOOD & ~CD.T0SZ) | 15n],
  ['T0SZ 40', (CD_GOOD & ~CD.T0SZ) | 40n],
  ['TG0 3', CD_GOOD | CD.TG0_3],
  ['EPD0 1', CD_GOOD | CD.EPD0],
  ['IPS 0', CD_GOOD & ~CD.IPS],
  ['R 0', CD_GOOD & ~CD.R],
  ['AFFD 1', CD_GOOD | CD.AFFD],
];

function contextDescriptors(guest: SmmuGuest, report: Report): void {
  const tried = (name: string) => {
    guest.forgetAll();
    report(`CD with ${name}`, guest.hit(IOVA), guest.hit(0x9000), guest.events());
  };
  for (const [name, cd0] of descriptors) {
    guest.descriptor(cd0);
    tried(name);
  }
  guest.descriptor(CD_GOOD, RAM_PAGES * 4096);
  tried('a table that the parent has not');
  guest.descriptor(CD_GOOD);
  report('all is forgotten', guest.forgetAll(), guest.hit(IOVA));
}

function caching(guest: SmmuGuest, report: Report): void {
  guest.lead(IOVA, 'B');
  report('an entry that is changed is stale', guest.hit(IOVA));
  report('TLBI_NH_VA of another ASID', guest.invalidate(tlbiVa(IOVA, 8n)), guest.hit(IOVA));
  report('TLBI_NH_VA', guest.invalidate(tlbiVa(IOVA)), guest.hit(IOVA));
  guest.entry(0x6000, 0n);
  report('no entry', guest.hit(0x6000), guest.events().length);
  guest.lead(0x6000, 'A');
  report('made valid, without a command', guest.hit(0x6000));
  guest.descriptor(withAsid(CD_GOOD, 9n));
  report('another ASID, without a command', guest.hit(IOVA));
  guest.lead(IOVA, 'A');
  guest.invalidate(tlbiVa(IOVA, 9n));
  report('TLBI_NH_VA of it', guest.hit(IOVA));
  guest.invalidate(cfgiCd);
  report('CFGI_CD', guest.hit(IOVA));
  guest.descriptor(CD_GOOD);
  guest.forgetAll();
}

const TG_4K = 1n << 10n;
const TG_16K = 2n << 10n;
const ttl = (level: bigint) => level << 8n;
const num = (value: bigint) => value << 12n;
const scale = (value: bigint) => value << 20n;
const toStream = (operation: bigint, stream = STREAM) => operation | (stream << 32n);

/** 4.1.1: by number, with what may and may not be set beside it. */
const commands: readonly (readonly [string, SmmuCommand])[] = [
  ['PREFETCH_CONFIG', [1n, 0n]],
  ['CFGI_STE', [toStream(3n), 1n]],
  ['CFGI_ALL', [4n, 31n]],
  ['CFGI_CD', cfgiCd],
  ['CFGI_CD without Leaf', [cfgiCd[0], 0n]],
  ['CFGI_CD with SSID', [cfgiCd[0] | (1n << 12n), 1n]],
  ['CFGI_CD with SSV', [cfgiCd[0] | (1n << 11n), 1n]],
  ['CFGI_CD of another stream', [toStream(5n, 0x99n), 1n]],
  ['CFGI_CD_ALL', [toStream(6n), 0n]],
  ['CFGI_CD_ALL with Range', [toStream(6n), 31n]],
  ['TLBI_NH_ALL', [0x10n, 0n]],
  ['TLBI_NH_ALL with VMID', [0x10n | (5n << 32n), 0n]],
  ['TLBI_NH_ALL with ASID', [0x10n | (5n << 48n), 0n]],
  ['TLBI_NH_ASID', [0x11n | (ASID << 48n), 0n]],
  ['TLBI_NH_VA', tlbiVa(IOVA)],
  ['TLBI_NH_VA, TTL without TG', [0x12n, 0x5001n | ttl(3n)]],
  ['TLBI_NH_VA, TG alone', [0x12n, 0x5001n | TG_4K]],
  ['TLBI_NH_VA, TG and TTL', [0x12n, 0x5001n | TG_4K | ttl(3n)]],
  ['TLBI_NH_VA, NUM without TG', [0x12n | num(1n), 0x5001n]],
  ['TLBI_NH_VA, NUM and TG', [0x12n | num(3n), 0x5001n | TG_4K]],
  ['TLBI_NH_VA, SCALE 31', [0x12n | scale(31n), 0x5001n | TG_4K]],
  ['TLBI_NH_VA, SCALE 32', [0x12n | scale(32n), 0x5001n | TG_4K]],
  ['TLBI_NH_VA, 16 KiB at level 1', [0x12n, 0x5001n | TG_16K | ttl(1n)]],
  ['TLBI_NH_VA, bit 1 of word 1', [0x12n, 0x5003n]],
  ['TLBI_NH_VA, bit 11', [0x12n | (1n << 11n), 0x5001n]],
  ['TLBI_NH_VAA', [0x13n, 0x5001n]],
  ['TLBI_NH_VAA with ASID', [0x13n | (ASID << 48n), 0x5001n]],
  ['TLBI_EL3_ALL', [0x18n, 0n]],
  ['TLBI_EL2_ALL', [0x20n, 0n]],
  ['TLBI_EL2_VA', [0x22n, 0x5001n]],
  ['TLBI_S12_VMALL', [0x28n, 0n]],
  ['TLBI_S2_IPA', [0x2an, 0x5000n]],
  ['TLBI_NSNH_ALL', [0x30n, 0n]],
  ['TLBI_NSNH_ALL, word 1', [0x30n, 1n]],
  ['TLBI_NSNH_ALL with VMID', [0x30n | (5n << 32n), 0n]],
  ['ATC_INV', [toStream(0x40n), 0n]],
  ['PRI_RESP', [0x41n, 0n]],
  ['RESUME', [0x44n, 0n]],
  ['SYNC', [0x46n, 0n]],
  ['number 0', [0n, 0n]],
  ['number 0xff', [0xffn, 0n]],
];

/** 5.2. */
const entries: readonly (readonly [string, bigint, bigint?])[] = [
  ['V 0 and all else 1', 0xffff_ffff_ffff_fffen],
  ['V 0 and something in word 1', 0n, 0xffffn << 40n],
  ['Config abort', 1n],
  ['Config bypass', 9n],
  ['Config first stage', STE_S1],
  ['Config second stage', 13n],
  ['Config both stages', 15n],
  ['Config 1', 3n],
  ['bit 52', STE_S1 | (1n << 52n)],
  ['bit 57', STE_S1 | (1n << 57n)],
  ['S1Fmt 2', STE_S1 | (2n << 4n)],
  ['S1CDMax 5', STE_S1 | (5n << 59n)],
  ['S1DSS 3', STE_S1, 3n],
  ['S1STALLD 1', STE_S1, 1n << 27n],
  ['EATS 1', STE_S1, 1n << 28n],
  ['EATS 2', STE_S1, 2n << 28n],
  ['EATS 3', STE_S1, 3n << 28n],
  ['SHCFG 1', STE_S1, 1n << 44n],
  ['S2FWB', STE_S1, 1n << 25n],
  ['STRW 1', STE_S1, 1n << 30n],
  ['MEV', STE_S1, 1n << 19n],
];

function streamEntries(guest: SmmuGuest, nest: StageOne, report: Report): void {
  for (const [name, ste0, ste1] of entries) {
    let stage: StageOne | null = null;
    const made = outcome(() => {
      stage = guest.stage(ste0, ste1);
    });
    if (made !== 'ok') {
      report(`STE with ${name}`, made);
      continue;
    }
    const attached = stage!.attach(guest.device);
    report(`STE with ${name}`, made, attached, guest.hit(IOVA), guest.hit(gpaOfPage(PAGE_A)), guest.events());
    report(
      'and back',
      nest.attach(guest.device),
      outcome(() => stage!.close()),
    );
  }
  report('the first stage again', guest.hit(IOVA));
}

/** Commands go to the hardware in blocks: which of those before one that is refused are carried out? */
function batches(guest: SmmuGuest, report: Report): void {
  for (const [bad, good] of [
    [1, 0],
    [62, 61],
    [63, 62],
    [64, 62],
    [64, 63],
    [126, 125],
    [127, 125],
  ]) {
    guest.lead(IOVA, 'A');
    guest.invalidate(tlbiVa(IOVA));
    guest.hit(IOVA);
    guest.lead(IOVA, 'B');
    const batch = Array.from({ length: 200 }, (_, index): SmmuCommand => {
      if (index === good) return tlbiVa(IOVA);
      return index === bad ? [0x46n, 0n] : tlbiVa(0x10_0000 + index * 4096);
    });
    report(`command ${bad} of 200 is refused, the one that counts is ${good}`, guest.invalidate(...batch), guest.hit(IOVA));
  }
  guest.lead(IOVA, 'A');
  guest.invalidate(tlbiVa(IOVA));
}

function lives(guest: SmmuGuest, nest: StageOne, stream: { close(): void }, report: Report): void {
  const { host, device, space, parent, viommu } = guest;
  report(
    'close the parent',
    outcome(() => parent.close()),
  );
  report(
    'close the vIOMMU',
    outcome(() => viommu.close()),
  );
  report(
    'close the first stage',
    outcome(() => nest.close()),
  );
  report('the parent unmaps', guest.unmapRam(), guest.hit(IOVA), guest.events().length);
  report('and maps', guest.mapRam(), guest.hit(IOVA));
  report(
    'close the vDEVICE while it is attached',
    outcome(() => stream.close()),
    guest.hit(IOVA),
  );
  report('a fault then', guest.hit(0x7000), guest.events());
  report('CFGI_CD then', guest.invalidate(cfgiCd));
  report('bypass', guest.stage(9n).attach(device));
  report('the first stage without a vDEVICE', nest.attach(device));
  report(
    'a nesting parent that tracks',
    outcome(() => host.createPageTable(device, space, { nestParent: true, dirtyTracking: true })),
  );
  report(
    'a second vIOMMU',
    outcome(() => host.createViommu(device, parent, 1)),
  );
  report(
    'a vIOMMU of type 2',
    outcome(() => host.createViommu(device, parent, 2)),
  );
  report(
    'a vIOMMU on a plain table',
    outcome(() => host.createViommu(device, host.createPageTable(device, space), 1)),
  );
  report(
    'events of type 2',
    outcome(() => viommu.createEventQueue(2, 32, 4)),
  );
  report(
    'events of type 1 twice',
    outcome(() => viommu.createEventQueue(1, 32, 4)),
  );
  report(
    'events without a depth',
    outcome(() => host.createViommu(device, parent, 1).createEventQueue(1, 32, 0)),
  );
  report(
    'a first stage on the parent',
    outcome(() => host.createStageOne(device, parent, smmuv3Stage1(STE_S1, 0n))),
  );
  for (const bytes of [8, 24]) {
    const data = { type: 2, bytes: new Uint8Array(bytes) };
    report(
      `an STE of ${bytes} bytes`,
      outcome(() => host.createStageOne(device, viommu, data)),
    );
  }
  report(
    'an STE of type 1',
    outcome(() => host.createStageOne(device, viommu, { type: 1, bytes: new Uint8Array(16) })),
  );
  const queue = host.createFaultQueue();
  report(
    'page faults',
    outcome(() => host.createStageOne(device, viommu, smmuv3Stage1(STE_S1, 0n), { faults: queue })),
  );
  report(
    'for PASIDs',
    outcome(() => host.createStageOne(device, viommu, smmuv3Stage1(STE_S1, 0n), { forPasid: true })),
  );
}

/** Does them all. Returns a line each. */
export function smmuOperations(machine: SmmuMachine): string[] {
  const lines: string[] = [];
  const report: Report = (what, ...results) => {
    lines.push(`${what}: ${results.map((result) => (typeof result === 'string' ? result : JSON.stringify(result))).join(' ')}`);
  };
  const guest = new SmmuGuest(machine);
  const nest = guest.stage(STE_S1);
  report('attach without a vDEVICE', nest.attach(guest.device));
  const stream = guest.addStream();
  report(
    'a second vDEVICE',
    outcome(() => guest.addStream(STREAM + 1n)),
  );
  guest.lead(IOVA, 'A');
  report('attach', nest.attach(guest.device), guest.hit(IOVA));
  faults(guest, report);
  contextDescriptors(guest, report);
  caching(guest, report);
  for (const [name, command] of commands) report(`command ${name}`, guest.invalidate(command));
  streamEntries(guest, nest, report);
  batches(guest, report);
  guest.breakTable();
  report('a table that the parent has not', guest.hit(0x20_0000), guest.events());
  lives(guest, nest, stream, report);
  guest.host.close();
  return lines;
}
