import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Call, type Change } from './call.ts';
import { FIRST, PAGES } from './guest.ts';

/*
 * What each instruction looks at, in its order (QEMU: hw/s390x/s390-pci-inst.c), and what it answers: docs/targets/zpci.md has the same table. Each
 * check is met alone and with all that come behind it.
 */

type Check = readonly [what: string, answer: string, wrong: Change];
interface Instruction {
  /** What makes it right. */
  readonly right: readonly Change[];
  readonly run: (call: Call) => string;
  readonly checks: readonly Check[];
}

const noHandle: Check = ['a handle of no enabled function', 'cc 3', { handle: 0x8002_0009 }];
const unaligned: Check = ['an address that 8 does not divide', 'specification', { isUnaligned: true }];
const noMemory: Check = ['an address outside memory', 'addressing', { isOutside: true }];
const otherSpace: Check = ['a DMA address space other than 0', 'status 28', { dmaSpace: 1 }];
const isNotRegistered: Check = ['no translation is registered', 'status 24', ({ guest }) => guest.modify(1, 5)];
const noRegistration: Check = ['PBA, PAL or IOTA that cannot be', 'operand', { fib: { 16: 2n ** 40n } }];
const noRoom: Check = ['the host has no room', 'status 16', { isFull: true }];
const inError: Check = ['the error state', 'status 12', (call) => call.fail()];
const odd: Check = ['an odd R2', 'specification', { isOdd: true }];
const noPlace: Check = ['no such place in the space', 'operand', { offset: 0x1000n }];
const noFunction: Check = ['a handle of no function', '0x101', { words: { 3: 0x2_0009 } }];
const noResponse: Check = ['no room for the response', '0x60', { responseBytes: 0x10 }];
const registered: Change = (call) => call.register();
const inErrorState: Change = (call) => call.fail();

const modify = (operation: number, checks: readonly Check[], ...right: Change[]): Instruction => {
  return { right: [{ operation }, ...right], run: (call) => call.mpcifc(), checks };
};
const clp = (command: number, words: Record<number, number>, checks: readonly Check[], ...right: Change[]): Instruction => {
  return { right: [{ command, words }, ...right], run: (call) => call.clp(), checks };
};
const loadOrStore = (how: 'pcilg' | 'pcistg'): Instruction => {
  const crossing = 'no bytes, or bytes across a doubleword (in configuration space a word)';
  const noSpace: Check = ['a space that there is not', 'status 20', { space: 7 }];
  const checks = [odd, noHandle, inError, noSpace, [crossing, 'operand', { bytes: 0 }] as const, noPlace];
  return { right: [{ bytes: 4 }], run: (call) => call.access(how), checks };
};

const CLP: readonly Check[] = [
  ['a request of less than 16, more than 8,184 or odd bytes', 'operand', { requestBytes: 8 }],
  ['a request outside the block', 'addressing', { requestBytes: 48, blockBytes: 48 }],
  ['a response of less than 8, more than 8,176 or odd bytes', 'operand', { responseBytes: 4 }],
  ['more than 8 KiB of both', 'operand', { requestBytes: 40, responseBytes: 8168 }],
  ['a request of other than 32 bytes', '0x50', { requestBytes: 40 }],
  ['no such command', '0x20', { command: 9 }],
];
const LIST: readonly Check[] = [
  ['a format other than 0', '0x40', { words: { 0: 2 ** 28 } }],
  ['a reserved bit', '0x70', { words: { 1: 1 } }],
  ['a resume token that no list gave', '0x10a', { words: { 4: 9 } }],
  ['no room for one function', '0x60', { responseBytes: 40 }],
  ['room for a part of one', 'cc 3, 0x50', { responseBytes: 56 }],
];
const RPCIT: readonly Check[] = [
  odd,
  noHandle,
  ['the error state', 'status 40', inErrorState],
  ['no translation is registered', 'status 8, event 0x1', isNotRegistered[2]],
  ['all of it outside PBA to PAL', 'status 8, event 0x2', { iova: BigInt(FIRST + PAGES) << 12n }],
  ['a malformed entry', 'status 8, event 0x7', ({ tables }) => tables.set(tables.pageEntry(FIRST), 0n)],
  noRoom,
];
const PCISTB: readonly Check[] = [
  noHandle,
  inError,
  ['a space that is no BAR', 'status 20', { space: 15 }],
  ['8 bytes or less, more than 128, odd ones, across 4 KiB; an offset or address that 8 does not divide', 'specification', { bytes: 8 }],
  noPlace,
  noMemory,
];

const INSTRUCTIONS: Readonly<Record<string, Instruction>> = {
  CLP: clp(3, { 3: 0x8002_0000 }, CLP),
  'CLP list': clp(2, {}, LIST, { responseBytes: 64 }),
  'CLP query': clp(3, { 3: 0x8002_0000 }, [noFunction, noResponse]),
  'CLP query group': clp(4, { 3: 0xff }, [['a group of no function', '0x10b', { words: { 3: 3 } }], noResponse]),
  'CLP enable': clp(
    5,
    { 4: 1 },
    [
      noFunction,
      noResponse,
      ['no DMA address space', '0x103', { words: { 4: 0 } }],
      ['more than one', '0x104', { words: { 4: 2 } }],
      ['it is enabled', '0x102', (call) => call.enable()],
    ],
    (call) => call.disable(),
  ),
  'CLP disable': clp(5, { 3: 0x8002_0000, 4: 0x100 }, [noFunction, noResponse, ['it is disabled', '0x102', (call) => call.disable()]]),
  MPCIFC: modify(4, [
    unaligned,
    noHandle,
    noMemory,
    ['a format other than 0', 'operand', { fib: { 0: 1n << 56n } }],
    ['no such operation', 'operand', { operation: 77 }],
  ]),
  'MPCIFC 2': modify(2, [
    ['interrupts are registered', 'status 24', (call) => call.registerInterrupts()],
    ['indicators outside memory', 'status 4', { fib: { 48: 2n ** 40n } }],
  ]),
  'MPCIFC 3': modify(3, [['no interrupts are registered', 'status 24', ({ guest }) => guest.modify(1, 3)]], (call) =>
    call.registerInterrupts(),
  ),
  'MPCIFC 4': modify(4, [otherSpace, ['a translation is registered', 'status 24', registered], noRegistration, noRoom]),
  'MPCIFC 5': modify(5, [otherSpace, isNotRegistered], registered),
  'MPCIFC 6': modify(6, [otherSpace, isNotRegistered, noRegistration, noRoom], registered),
  'MPCIFC 7': modify(7, [['neither the error nor the blocked state', 'status 24', ({ guest }) => guest.modify(1, 7)]], inErrorState),
  'MPCIFC 9': modify(9, [['not the error state', 'status 24', ({ guest }) => guest.modify(1, 9)]], inErrorState),
  'MPCIFC 10': modify(10, [['a block with a key', 'cc 1, event 0x2c', { fib: { 64: 0x3201n } }]]),
  STPCIFC: {
    right: [],
    run: (call) => call.stpcifc(),
    checks: [otherSpace, unaligned, ['a handle of no configured function, or of a disabled one as enabled', 'cc 3', noHandle[2]], noMemory],
  },
  RPCIT: { right: [registered], run: (call) => call.rpcit(), checks: RPCIT },
  PCILG: loadOrStore('pcilg'),
  PCISTG: loadOrStore('pcistg'),
  PCISTB: { right: [], run: (call) => call.pcistb(), checks: PCISTB },
};

describe.each(Object.entries(INSTRUCTIONS))('%s', (_name, { right, run, checks }) => {
  const answered = (wrong: readonly Check[]) => {
    const call = new Call();
    for (const change of right) call.change(change);
    // Of two that change the same, the first has the last word.
    for (const [, , change] of [...wrong].reverse()) call.change(change);
    return run(call);
  };

  test('as it stands it is done', () => {
    expect(answered([])).toBe('done');
  });

  test.each(checks.map(([what, answer], i) => [what, answer, i] as const))('%s: %s, whatever else is wrong', (_, answer, i) => {
    expect([answered([checks[i]!]), answered(checks.slice(i))]).toEqual([answer, answer]);
  });
});

test('docs/targets/zpci.md has the same table', () => {
  const rows = Object.entries(INSTRUCTIONS).map(
    ([name, { checks }]) => `| ${name} | ${checks.map(([what, answer]) => `${what}: ${answer}`).join('; ')} |`,
  );
  const lines = readFileSync('docs/targets/zpci.md', 'utf8').split('\n');
  const head = lines.indexOf('| instruction | what it looks at, in its order: what it answers |');
  expect(lines.slice(head + 2, head + 2 + rows.length)).toEqual(rows);
});
