import { expect, test } from 'vitest';
import { openHost } from '../../../src/host/registry.ts';
import { simKernel } from '../../../src/host/sim/index.ts';
import { READ } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { type Answer, CC, GeneralRegisters, UNFINISHED } from '../../../src/target/zpci/index.ts';
import { Machine } from '../../../src/vmm/index.ts';
import { Guest, GuestTables, handleOf, INVALID, RAM_PAGES } from './guest.ts';

/* Tables of more entries than one refresh reads: 8 GiB of 4 KiB pages. */

const BUDGET = 2 ** 19;
const GIB2 = 2 ** 19;
/** 4 GiB. */
const START = 2 * GIB2;
const LAST = START + 4 * GIB2 - 1;
/** Where the first page of each MiB leads: pages stay small, MiBs apart. */
const BASE = 0x101;

/** Four region-third entries with one segment table, all of whose entries have one page table. */
function large(memory?: GuestMemory): { guest: Guest; tables: GuestTables } {
  const guest = new Guest({ functions: [{ fid: 1, aperture: { start: BigInt(START) << 12n, last: 2n ** 63n - 1n } }] }, memory);
  const tables = new GuestTables(guest.memory, 0x10000n, 'regionThird');
  tables.map(0, BASE, 256);
  const segment = tables.entry(1, 0);
  for (let i = 0; i < 2048; i++) tables.set(segment + BigInt(8 * i), tables.pageEntry(0));
  for (let i = 2; i < 6; i++) tables.set(tables.entry(2, i), segment | 7n);
  guest.set(handleOf(1) & 0x7fff_ffff, 0);
  return { guest, tables };
}

function register({ iota }: GuestTables, guest: Guest, last = LAST): void {
  expect(guest.modify(1, 4, { 16: BigInt(START) << 12n, 24: (BigInt(last) << 12n) | 0xfffn, 32: iota })).toEqual([0, 0]);
}

function registersOf(pages: number): GeneralRegisters {
  const registers = new GeneralRegisters();
  registers.u64.set([BigInt(handleOf(1)) << 32n, BigInt(START) << 12n, BigInt(pages) << 12n], 1);
  return registers;
}

/** Table entries that `work` reads. */
function loadsOf(memory: GuestMemory, work: () => void): number {
  const { load64BE } = memory;
  let loads = 0;
  memory.load64BE = (hi, lo) => {
    loads++;
    return load64BE.call(memory, hi, lo);
  };
  work();
  memory.load64BE = load64BE;
  return loads;
}

test('one refresh of all takes what the guest took, and nothing else, part by part; between any two host calls', () => {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const ram = kernel.allocate(RAM_PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const { guest, tables } = large(memory);
  register(tables, guest);
  const later: (() => void)[] = [];
  const machine = new Machine({
    memory,
    target: guest.iommu,
    host: openHost('iommufd', kernel),
    schedule: (work) => void later.push(work),
  });
  machine.passThrough(1, kernel.devices[0].path);
  while (later.length > 0) later.shift()!();
  const reached = (page: number) => {
    const found = kernel.devices[0].hostPfn(page, READ);
    return found < 0 ? -1 : found - pfnOf(ram.address) - BASE;
  };
  const stays = [START + 5, START + GIB2 + 0xff, START + 3 * GIB2 - 1];
  const goes = START + 3 * GIB2 + 5;
  expect([...stays, goes].map(reached)).toEqual([5, 0xff, 0xff, 5]);
  const lost: number[] = [];
  kernel.hooks.observe({ after: () => void lost.push(...stays.filter((page) => reached(page) < 0)) });
  tables.set(tables.entry(2, 5), INVALID);
  const registers = registersOf(4 * GIB2);
  const answers: number[] = [];
  do answers.push(guest.iommu.rpcit(registers, 1, 2));
  while (answers.at(-1) === UNFINISHED);
  expect([answers.at(-1), reached(goes), lost]).toEqual([0, -1, []]);
  // Three segment tables and what leads to them, of which a part reads BUDGET entries.
  expect(answers).toHaveLength(4);
  machine.close();
});

test('a part reads 2^19 entries; of more the first 32 are looked at, and the rest is announced at once', () => {
  const { guest, tables } = large();
  for (let i = 0; i < 2048; i++) tables.set(tables.entry(2, i), tables.entry(1, 0) | 7n);
  register(tables, guest, START + 2 ** 30 - 1);
  const said: [number, number][] = [];
  guest.iommu.observe({ attach: () => 0, changed: (_, first, last) => void said.push([first, last]), flush: () => 0 });
  const registers = registersOf(2 ** 30);
  const answers: number[] = [];
  const run = () => void answers.push(guest.iommu.rpcit(registers, 1, 2));
  const loads = [loadsOf(guest.memory, run), loadsOf(guest.memory, run)];
  expect(loads).toEqual([BUDGET, BUDGET]);
  while (answers.at(-1) === UNFINISHED) run();
  expect(answers).toEqual([...new Array(32).fill(UNFINISHED), 0]);
  said.forEach(([first], i) => {
    expect(first).toBe(i === 0 ? START : said[i - 1][1] + 1);
  });
  expect(said.at(-1)![1]).toBe(START + 2 ** 30 - 1);
});

test('what another CPU begins is its own, whatever its operands; a registration ends what was begun before', () => {
  const { guest, tables } = large();
  register(tables, guest);
  const said: number[] = [];
  guest.iommu.observe({ attach: () => 0, changed: (_, first) => void said.push(first), flush: () => 0 });
  const [one, other] = [registersOf(4 * GIB2), registersOf(4 * GIB2)];
  const run = (registers: GeneralRegisters) => [guest.iommu.rpcit(registers, 1, 2), said.at(-1)! > START];
  expect(run(one)).toEqual([UNFINISHED, false]);
  expect(run(one)).toEqual([UNFINISHED, true]);
  expect(run(other)).toEqual([UNFINISHED, false]);
  expect(run(one)).toEqual([UNFINISHED, true]);
  guest.modify(1, 5);
  register(tables, guest);
  expect(run(one)).toEqual([UNFINISHED, false]);
  // Another range of the same CPU is another instruction.
  one.u64[3]! -= 4096n;
  expect(run(one)).toEqual([UNFINISHED, false]);
  expect(guest.refresh(1, START + 5, 1)).toEqual([0, 0]);
  guest.iommu.fail(1, 0x3a, 0n);
  expect([guest.iommu.rpcit(one, 1, 2), Number((one.u64[1] >> 24n) & 0xffn)]).toEqual([1, 40]);
});

test('a part that the host cannot follow, and a malformed entry behind parts, are told at the end', () => {
  const { guest, tables } = large();
  register(tables, guest);
  let left = 1;
  guest.iommu.observe({ attach: () => 0, changed: () => {}, flush: () => (left-- === 0 ? -28 : 0) });
  expect(guest.refresh(1, START, 4 * GIB2)).toEqual([1, 16]);
  tables.set(tables.entry(2, 5), 0n);
  expect(guest.refresh(1, START, 4 * GIB2)).toEqual([1, 8]);
  expect(guest.events).toEqual([expect.objectContaining({ code: 7, address: BigInt(START + 3 * GIB2) << 12n })]);
});

test('what presents the answer of an instruction takes that of RPCIT only behind UNFINISHED: anything else does not compile', () => {
  const { guest, tables } = large();
  register(tables, guest);
  const registers = registersOf(4 * GIB2);
  let answer = guest.iommu.rpcit(registers, 1, 2);
  // @ts-expect-error It may be UNFINISHED.
  const early: Answer = answer;
  expect(early).toBe(UNFINISHED);
  while (answer === UNFINISHED) answer = guest.iommu.rpcit(registers, 1, 2);
  const late: Answer = answer;
  expect(late).toBe(CC.done);
});
