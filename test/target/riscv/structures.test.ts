import { beforeEach, describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { Registers } from '../../../src/target/riscv/control/registers.ts';
import { Structures } from '../../../src/target/riscv/structures.ts';

/* "Endianness of in-memory data structures": each doubleword in the order that fctl.BE, or an entry's SBE, says. */

const END = 0x2000;

class Contended extends GuestMemory {
  /** Compare-and-exchanges that meet another store first. */
  others = 0;
  override compareExchange64(...words: Parameters<GuestMemory['compareExchange64']>): number {
    return this.others-- > 0 ? 0 : super.compareExchange64(...words);
  }
}

describe('structures in memory', () => {
  let memory: Contended;
  let structures: Structures;
  let registers: { bigEndian: boolean };
  let device: [bigint, number][];
  let poisoned: boolean;

  beforeEach(() => {
    memory = new Contended(GuestMemory.ofBytes(END).regions);
    registers = { bigEndian: false };
    device = [];
    poisoned = false;
    const surroundings = {
      memory: Object.defineProperty(memory, 'poisoned', { get: () => poisoned }),
      storeDevice: (address: bigint, value: number) => device.push([address, value]) > 0,
    };
    structures = new Structures(surroundings, registers as Registers);
  });

  const bytesAt = (at: number) => [...new Uint8Array(memory.regions[0].buffer, at, 8)];

  test('two doublewords that end where memory does, and that do not', () => {
    for (const bigEndian of [false, true]) {
      structures.words.set([1, 2, 3, 4]);
      expect(structures.write(0, END - 16, 2, bigEndian)).toBe(true);
      structures.words.fill(0);
      expect([structures.readPair(0, END - 16, bigEndian), [...structures.words.subarray(0, 4)]]).toEqual([true, [1, 2, 3, 4]]);
      expect([structures.readPair(0, END - 8, bigEndian), structures.readPair(0, END, bigEndian)]).toEqual([false, false]);
      expect([structures.write(0, END - 8, 2, bigEndian), structures.read(0, END - 8, 2, bigEndian)]).toEqual([false, false]);
    }
  });

  test.each([
    [false, [0x81, 0, 0, 0, 0, 0, 0, 0x40]],
    [true, [0x40, 0, 0, 0, 0, 0, 0, 0x81]],
  ])('bits that are set atomically, big-endian %s', (bigEndian, bytes) => {
    registers.bigEndian = bigEndian;
    expect(structures.setBits(0, 8, 0x4000_0000, 0x81, 1)).toBe(true);
    expect(bytesAt(8)).toEqual(bytes);
    expect(structures.setBits(0, END, 0, 1, 1)).toBe(false);
  });

  test('bits are tried again as often as is allowed', () => {
    memory.others = 2;
    expect([structures.setBits(0, 8, 0, 1, 3), bytesAt(8)[0]]).toEqual([true, 1]);
    memory.others = 3;
    expect([structures.setBits(0, 16, 0, 1, 3), bytesAt(16)[0]]).toEqual([false, 0]);
  });

  test.each([
    [false, [0x04, 0x03, 0x02, 0x01]],
    [true, [0x01, 0x02, 0x03, 0x04]],
  ])('a word into memory, or into a device of the machine where there is none, big-endian %s', (bigEndian, bytes) => {
    registers.bigEndian = bigEndian;
    expect([structures.storeWord(0, 8, 0x0102_0304), bytesAt(8).slice(0, 4)]).toEqual([true, bytes]);
    expect(structures.storeWord(1, 0x100, 0x0102_0304)).toBe(true);
    expect(device).toEqual([[0x1_0000_0100n, bigEndian ? 0x0403_0201 : 0x0102_0304]]);
    // What is memory, and cannot be written, is no device.
    poisoned = true;
    expect([structures.storeWord(1, 0x100, 1), device.length]).toEqual([false, 1]);
  });
});
