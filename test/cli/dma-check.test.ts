import { beforeEach, describe, expect, test } from 'vitest';
import { DmaCheck } from '../../src/cli/replay/dma-check.ts';
import type { DmaEngine } from '../../src/cli/replay/rig.ts';
import { Tally } from '../../src/cli/replay/tally.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { Target } from '../../src/target/target.ts';

const DEVICE = 8;
const FAULT = -3;

describe('a recorded access', () => {
  let memory: GuestMemory;
  /** By page of the IOVA: where it leads, and what may be done there. In software, and on the hardware. */
  let software: Map<number, readonly [number, number]>;
  let hardware: Map<number, readonly [number, number]>;
  let asked: string[];

  beforeEach(() => {
    memory = GuestMemory.ofBytes(1 << 16);
    software = new Map([[1, [5, READ_WRITE]]]);
    hardware = new Map(software);
    asked = [];
  });

  const reach = (pages: Map<number, readonly [number, number]>, iova: number, access: number) => {
    const found = pages.get(iova >> 12);
    return found === undefined || (found[1] & access) === 0 ? null : found[0] * 4096 + (iova & 4095);
  };

  function check({ stride = 1, readsAll = false } = {}) {
    const translated = new Int32Array(2);
    const translate: Target['translate'] = (_endpoint, _pasid, _hi, lo, access) => {
      const to = reach(software, lo, access);
      translated[0] = to ?? 0;
      return to === null ? FAULT : 12;
    };
    const dma = (access: number, iova: bigint, bytes: Uint8Array) => {
      asked.push(`${access === READ ? 'read' : 'write'} ${iova.toString(16)}`);
      const to = reach(hardware, Number(iova), access);
      if (to === null) return false;
      return (access === READ ? memory.read(0, to, bytes, 0, 8) : memory.write(0, to, bytes, 0, 8)) === 0;
    };
    const engine: DmaEngine = { read: (iova, into) => dma(READ, iova, into), write: (iova, from) => dma(WRITE, iova, from) };
    return new DmaCheck({ translated, translate } as Target, memory, new Map([[DEVICE, engine]]), stride, () => readsAll);
  }

  const access = { endpoint: DEVICE, iova: 0x1ffen, gpa: 0x5ffen, allowed: READ_WRITE, forbidden: 0, line: 7 };
  const counts = (made: DmaCheck) => [made.software, made.hardware].map(({ checked, wrong }) => [checked, wrong]);

  test('is done by both, the device’s within the page that was recorded', () => {
    const made = check();
    made.check(access);
    expect([counts(made), asked]).toEqual([
      [
        [2, 0],
        [2, 0],
      ],
      ['read 1ff8', 'write 1ff8'],
    ]);
  });

  test('that lands elsewhere is wrong, on either side', () => {
    hardware.set(1, [6, READ_WRITE]);
    const made = check();
    made.check(access);
    expect([counts(made), made.hardware.details]).toEqual([
      [
        [2, 0],
        [2, 2],
      ],
      ['line 7: endpoint 0x8 iova 0x1ffe: the device does not read what is at 0x5ff8', expect.stringMatching(/does not arrive at 0x5ff8$/)],
    ]);
    software.set(1, [6, READ_WRITE]);
    const other = check();
    other.checkSoftware(access);
    expect(other.software.details[0]).toBe('line 7: endpoint 0x8 iova 0x1ffe: software read reaches 0x6ffe, not 0x5ffe');
  });

  test('that is forbidden must not go through, and has the fault that was recorded', () => {
    software.set(1, [5, READ]);
    hardware.set(1, [5, READ]);
    const made = check();
    const forbidden = { ...access, allowed: READ, forbidden: WRITE };
    made.check(forbidden);
    made.check({ ...forbidden, fault: FAULT });
    expect(counts(made)).toEqual([
      [4, 0],
      [4, 0],
    ]);
    made.check({ ...forbidden, fault: FAULT - 1 });
    expect([counts(made)[0], made.software.details[0]]).toEqual([
      [6, 1],
      expect.stringContaining('software write is forbidden and ends with'),
    ]);
    made.check({ ...access, allowed: 0, forbidden: READ });
    expect([made.software.details[1], made.hardware.details]).toEqual([
      expect.stringMatching(/software read is forbidden and goes through$/),
      [expect.stringMatching(/the device reads what it must not$/)],
    ]);
  });

  test('of a page for writing only is read where tables have no such page, and nowhere else', () => {
    software.set(1, [5, WRITE]);
    const writeOnly = { ...access, allowed: WRITE, forbidden: READ };
    const made = check({ readsAll: true });
    made.check(writeOnly);
    expect([counts(made)[1], made.readsOfWriteOnly]).toEqual([[2, 0], 1]);
    const strict = check();
    strict.check(writeOnly);
    expect([counts(strict)[1], strict.readsOfWriteOnly]).toEqual([[2, 1], 0]);
    // Nothing there at all.
    software.delete(1);
    const none = check({ readsAll: true });
    none.check({ ...access, allowed: 0, forbidden: READ });
    expect([counts(none)[1], none.readsOfWriteOnly]).toEqual([[1, 1], 0]);
    // What is not read needs no excuse.
    hardware.delete(1);
    const refused = check({ readsAll: true });
    refused.check({ ...access, allowed: 0, forbidden: READ });
    expect([counts(refused)[1], refused.readsOfWriteOnly]).toEqual([[1, 0], 0]);
  });

  test('is done by devices every so often, never with a PASID nor where nobody can look', () => {
    const made = check({ stride: 3 });
    for (let i = 0; i < 7; i++) made.check(access);
    expect([counts(made), asked.length]).toEqual([
      [
        [14, 0],
        [6, 0],
      ],
      6,
    ]);
    const other = check();
    other.checkHardware({ ...access, pasid: 1 });
    other.checkHardware({ ...access, endpoint: DEVICE + 1 });
    other.checkHardware({ ...access, gpa: 0xfee0_0000n });
    expect(other.hardware.checked).toBe(0);
  });

  test('of a device that reads nothing but what it read before is no read of what is there', () => {
    const made = check();
    made.checkHardware({ ...access, allowed: READ });
    hardware.set(1, [9, READ_WRITE]);
    made.checkHardware({ ...access, allowed: READ });
    expect([made.hardware.checked, made.hardware.wrong]).toEqual([2, 1]);
  });
});

test('of what is wrong ten are told, and all counted', () => {
  const tally = new Tally();
  let made = 0;
  for (let i = 0; i < 30; i++) tally.check(i % 2 === 0, () => `${made++}`);
  expect([tally.checked, tally.wrong, tally.details.length, made]).toEqual([30, 15, 10, 10]);
  expect(JSON.parse(JSON.stringify(tally))).toEqual({ checked: 30, wrong: 15 });
});
