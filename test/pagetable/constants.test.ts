import { expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import * as amd from '../../src/pagetable/amd-v1.ts';
import * as arm from '../../src/pagetable/arm.ts';
import type { Description } from '../../src/pagetable/page-table.ts';
import * as riscv from '../../src/pagetable/riscv.ts';
import * as s390 from '../../src/pagetable/s390.ts';
import * as vtd from '../../src/pagetable/vtd-second-stage.ts';
import * as x86 from '../../src/pagetable/x86.ts';

/* Formats repeat bits of their entries as constants of their own, for the compiler folds no others; `fields` of their descriptions declares them. */

const memory = GuestMemory.ofBytes(4096);

interface Repeated {
  readonly low: Readonly<Record<string, number>>;
  readonly high: Readonly<Record<string, number>>;
  readonly address: Readonly<Record<string, readonly [number, number]>>;
}

const formats: readonly (readonly [string, Description, Repeated])[] = [
  ['amd-v1', new amd.AmdV1Table(memory, { root: 0, levels: 4 }).description, amd.REPEATED],
  ['arm', new arm.ArmTable(memory, { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 48, root: 0n }).description, arm.REPEATED],
  ['riscv', new riscv.RiscvTable({ memory, root: 0, mode: 'sv39', svpbmt: true }).description, riscv.REPEATED],
  ['s390', new s390.S390Table(memory, { root: 0, levels: 3 }).description, s390.REPEATED],
  ['vtd-second-stage', new vtd.VtdSecondStageTable(memory, { root: 0, levels: 4 }).description, vtd.REPEATED],
  ['x86', new x86.X86Table(memory, { root: 0, levels: 4 }).description, x86.REPEATED],
];

/** The halves of a mask of bits [low, high]. */
function halves([low, high]: readonly [number, number]): [number, number] {
  const mask = ((1n << BigInt(high - low + 1)) - 1n) << BigInt(low);
  return [Number(BigInt.asIntN(32, mask)), Number(BigInt.asIntN(32, mask >> 32n))];
}

test.each(formats)('%s repeats its fields as they are declared', (_, { fields }, { low, high, address }) => {
  for (const [name, mask] of Object.entries(low)) expect([name, [mask | 0, 0]]).toEqual([name, halves(fields[name])]);
  for (const [name, mask] of Object.entries(high)) expect([name, [0, mask | 0]]).toEqual([name, halves(fields[name])]);
  for (const [name, masks] of Object.entries(address)) expect([name, masks.map((mask) => mask | 0)]).toEqual([name, halves(fields[name])]);
});

test('permissions and privilege, where formats repeat them, are those of src/memory/access.ts', () => {
  const RW = READ_WRITE;
  const RWX = READ | WRITE | EXECUTE;
  expect(amd.REPEATED.access).toEqual({ RW, RWX, WRITES: WRITE });
  expect(riscv.REPEATED.access).toEqual({ RWX, WRITING: WRITE, AS_SUPERVISOR: PRIVILEGED });
  expect(vtd.REPEATED.access).toEqual({ RW });
  expect(x86.REPEATED.access).toEqual({ PRIVILEGE: PRIVILEGED, WRITE, READS: READ, WRITES: WRITE, EXECUTES: EXECUTE });
  expect([vtd.REPEATED.low.R, vtd.REPEATED.low.W, vtd.REPEATED.low.X]).toEqual([READ, WRITE, EXECUTE]);
});
