import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { SmmuGuestCommands } from '../../src/host/iommufd/guest-commands.ts';
import type { CommandRoute } from '../../src/host/iommufd/invalidate.ts';
import { SmmuCaches } from '../../src/host/sim/nesting/smmuv3-caches.ts';
import { reaching } from '../reaching.ts';

/* What becomes of a guest's commands on their way to hardware that takes no bit too many: IHI 0070, chapter 4; Linux 7.3, arm_vsmmu_convert_user_cmd. */

const IDR = [0x0000_1acb | (1 << 19) | (1 << 10), (19 << 21) | (20 << 6) | 16, 0, 1 << 10, 0, 0x55];
const NO_RANGES = IDR.with(3, 0);
const NO_ATS = IDR.with(0, IDR[0] & ~(1 << 10));
const NO_SUBSTREAMS = IDR.with(1, 16);
const STREAMS = new Set([0x20, 0x21]);

/** What a command becomes, as pairs of double words. */
function cleaned(low: bigint, high: bigint, idr: readonly number[] = IDR): [bigint, bigint][] {
  const sent: [bigint, bigint][] = [];
  const join = (lo: number, hi: number) => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  const route: CommandRoute = {
    addCommand: (w0, w1, w2, w3) => {
      sent.push([join(w0, w1), join(w2, w3)]);
      return 0;
    },
    flush: () => 0,
    error: null,
  };
  const words = [low, low >> 32n, high, high >> 32n].map((word) => Number(BigInt.asIntN(32, word)));
  new SmmuGuestCommands(route, idr, STREAMS).add(Int32Array.from(words));
  return sent;
}

const word = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.nat(0xffff).map(BigInt), fc.constantFrom(0n, 2n ** 64n - 1n));
const codes = [
  0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x18, 0x20, 0x21, 0x22, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46,
];
const stream = fc.constantFrom(0x20n, 0x21n, 0x22n, 0xffff_ffffn);
const low = fc
  .tuple(fc.oneof(fc.constantFrom(...codes), fc.nat(255)), word, stream, fc.boolean())
  .map(([code, rest, id, named]) => (named ? (rest & 0xffff_ff00n) | (id << 32n) : rest & ~0xffn) | BigInt(code));

describe.each([
  ['everything', IDR],
  ['no ranges', NO_RANGES],
  ['no ATS', NO_ATS],
  ['no substreams', NO_SUBSTREAMS],
])('hardware with %s', (name, idr) => {
  const caches = new SmmuCaches(idr);
  const reached = reaching(`commands for hardware with ${name}`, 'a command that is passed on', 'a command that is not');
  test.prop([low, word], { numRuns: 3000 })('takes whatever becomes of any command', (first, second) => {
    reached();
    const commands = cleaned(first, second, idr);
    reached(commands.length > 0 ? 'a command that is passed on' : 'a command that is not');
    for (const [word0, word1] of commands)
      expect(caches.check(word0, word1, (id) => (STREAMS.has(Number(id)) ? STREAMS : undefined))).toBe(0);
  });
});

const ADDRESS = 0x1234_5000n;
const ASID = 7n << 48n;
const ON_20 = 0x20n << 32n;

describe('a command', () => {
  test.each<[string, [bigint, bigint], [bigint, bigint][], (readonly number[])?]>([
    [
      'with a VMID and reserved bits keeps its fields alone',
      [0x12n | (5n << 32n) | ASID | (3n << 10n), ADDRESS | 3n],
      [[0x12n | ASID, ADDRESS | 1n]],
    ],
    ['without TG has no NUM, SCALE and TTL', [0x12n | ASID | (9n << 12n) | (1n << 20n), ADDRESS | (2n << 8n)], [[0x12n | ASID, ADDRESS]]],
    ['with TG and a single granule is the address alone (4.4.1.1)', [0x12n | ASID, ADDRESS | (1n << 10n)], [[0x12n | ASID, ADDRESS]]],
    [
      'of a range is one',
      [0x12n | ASID | (9n << 12n), ADDRESS | (1n << 10n) | (3n << 8n)],
      [[0x12n | ASID | (9n << 12n), ADDRESS | (1n << 10n) | (3n << 8n)]],
    ],
    [
      'of a range where there are none is all of the ASID',
      [0x12n | ASID | (9n << 12n), ADDRESS | (1n << 10n)],
      [[0x11n | ASID, 0n]],
      NO_RANGES,
    ],
    [
      'of a range over every ASID where there are none is everything',
      [0x13n | (9n << 12n), ADDRESS | (1n << 10n)],
      [[0x10n, 0n]],
      NO_RANGES,
    ],
    [
      'of 2^31 granules is one (the kernel takes no larger SCALE)',
      [0x12n | ASID | (31n << 20n), ADDRESS | (1n << 10n)],
      [[0x12n | ASID | (31n << 20n), ADDRESS | (1n << 10n)]],
    ],
    ['of 2^32 granules is all of the ASID', [0x12n | ASID | (32n << 20n), ADDRESS | (1n << 10n)], [[0x11n | ASID, 0n]]],
    [
      'for level 1 of 16 KiB granules loses the hint',
      [0x12n | ASID | (9n << 12n), ADDRESS | (2n << 10n) | (1n << 8n)],
      [[0x12n | ASID | (9n << 12n), ADDRESS | (2n << 10n)]],
    ],
    ['for EL2 is everything of the guest’s', [0x20n | ASID, 0n], [[0x10n, 0n]]],
    ['for a stream that is not there is none', [0x05n | (0x22n << 32n), 1n], []],
    ['CFGI_STE is one for its descriptors: the entry comes by an attach', [0x03n | ON_20, 1n], [[0x06n | ON_20, 0n]]],
    [
      'CFGI_ALL is one for each stream',
      [0x04n, 31n],
      [
        [0x06n | ON_20, 0n],
        [0x06n | (0x21n << 32n), 0n],
      ],
    ],
    [
      'CFGI_STE_RANGE is one for each stream in it',
      [0x04n | ON_20, 0n],
      [
        [0x06n | ON_20, 0n],
        [0x06n | (0x21n << 32n), 0n],
      ],
    ],
    ['CFGI_CD keeps its substream', [0x05n | ON_20 | (3n << 12n), 1n], [[0x05n | ON_20 | (3n << 12n), 1n]]],
    ['CFGI_CD has no substream where there are none', [0x05n | ON_20 | (3n << 12n), 1n], [[0x05n | ON_20, 1n]], NO_SUBSTREAMS],
    ['ATC_INV goes to hardware with ATS', [0x40n | ON_20, ADDRESS | 2n], [[0x40n | ON_20, ADDRESS | 2n]]],
    ['ATC_INV goes to no other', [0x40n | ON_20, ADDRESS | 2n], [], NO_ATS],
    ['CMD_SYNC is the flush', [0x46n, 0n], []],
  ])('%s', (_, [first, second], sent, idr = IDR) => {
    expect(cleaned(first, second, idr)).toEqual(sent);
  });
});

/** A queue of commands before a kernel whose answers are given. */
function queued(answers: number[], streams = STREAMS) {
  const sent: number[] = [];
  const route: CommandRoute = { addCommand: (w0) => sent.push(w0 & 0xff) && 0, flush: () => answers.shift() ?? 0, error: null };
  const commands = new SmmuGuestCommands(route, NO_ATS, streams);
  return { commands, codes: () => sent.splice(0) };
}

describe('what the kernel refuses', () => {
  const NH_ASID = Int32Array.of(0x11, 7 << 16, 0, 0);

  test('makes everything forgotten instead, and is no error then', () => {
    const { commands, codes } = queued([-5]);
    commands.add(NH_ASID);
    expect([commands.sync(), commands.pending, codes()]).toEqual([0, false, [0x11, 0x06, 0x06, 0x10]]);
    commands.add(NH_ASID);
    expect([commands.sync(), codes()]).toEqual([0, [0x11]]);
  });

  test('of everything too is tried again, until it is taken', () => {
    const { commands, codes } = queued([-5, 0, -5, 0, -5]);
    commands.add(NH_ASID);
    expect([commands.sync(), commands.pending]).toEqual([-5, true]);
    expect([commands.sync(), commands.pending]).toEqual([-5, true]);
    codes();
    expect([commands.sync(), commands.pending, codes()]).toEqual([0, false, [0x06, 0x06, 0x10]]);
  });

  test('a command that could not be added is one that was refused, once', () => {
    let refuses = true;
    const route: CommandRoute = { addCommand: () => (refuses ? -12 : 0), flush: () => 0, error: null };
    const commands = new SmmuGuestCommands(route, NO_ATS, STREAMS);
    commands.add(NH_ASID);
    refuses = false;
    let flushes = 0;
    route.flush = () => {
      flushes++;
      return 0;
    };
    expect([commands.sync(), flushes]).toEqual([0, 3]);
    commands.add(NH_ASID);
    flushes = 0;
    expect([commands.sync(), flushes]).toEqual([0, 1]);
  });

  test('what came while there was no stream is forgotten before the first one comes, and again where that failed', () => {
    const streams = new Set<number>();
    const { commands, codes } = queued([0, -5], streams);
    expect(commands.catchUp()).toBe(0);
    commands.add(NH_ASID);
    expect([commands.pending, codes()]).toEqual([false, []]);
    streams.add(0x20);
    expect([commands.catchUp(), codes()]).toEqual([-5, [0x06, 0x10]]);
    expect([commands.catchUp(), codes()]).toEqual([0, [0x06, 0x10]]);
    expect([commands.catchUp(), codes()]).toEqual([0, []]);
  });
});
