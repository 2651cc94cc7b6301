import { describe, expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { Cmd, type Descriptor, EVERYTHING, Guest, iotlbPages, Reg, STATUS, wait } from './guest.ts';

/* Where the invalidation queue and what it writes may lie (VT-d D51397-018, 11.4.9), and its events and errors between each other. */

test.each([
  ['128-bit', false],
  ['256-bit', true],
])('a queue across 4 GiB: %s descriptors on both sides of it', (_, wide) => {
  const memory = new GuestMemory([
    { gpa: 0n, buffer: new SharedArrayBuffer(1024 * 4096) },
    { gpa: 0xffff_f000n, buffer: new SharedArrayBuffer(2 * 4096) },
  ]);
  const guest = new Guest(wide ? EVERYTHING : {}, 1024, {}, memory);
  const bytes = wide ? 32 : 16;
  const count = 8192 / bytes - 1;
  // What would be taken where an address lost its upper half: descriptors too, of which none writes a status.
  for (let at = 0; at < 4096; at += bytes) guest.store(at, ...iotlbPages(9, 1), ...(wide ? [0n, 0n] : []));
  // Usual ones, which are decoded in a row, and others on both sides.
  for (let i = 0; i < count; i++) {
    const at = 0xffff_f000 + i * bytes;
    const words = i % 20 === 19 || i === count - 1 ? wait(i) : iotlbPages(1, i);
    for (const [j, word] of words.entries())
      memory.store64(at >= 2 ** 32 ? 1 : 0, (at + j * 8) | 0, Number(word >> 32n) | 0, Number(word & 0xffff_ffffn) | 0);
  }
  guest.iommu.write(Reg.iqa, 8, 0xffff_f001n | (wide ? 1n << 11n : 0n));
  guest.global(Cmd.qie);
  guest.iommu.write(Reg.iqt, 8, BigInt(count * bytes));
  expect([guest.iommu.read(Reg.iqh, 8), guest.iommu.read(Reg.fsts, 4)]).toEqual([BigInt(count * bytes), 0n]);
  expect(guest.load(STATUS * 4096) & 0xffff_ffffn).toBe(BigInt(count - 1));
  // Nothing of it was taken from address 0 on.
  guest.iommu.write(Reg.iqt, 8, 0n);
  expect(guest.iommu.read(Reg.iqercd, 8) & 0xfn).toBe(3n);
});

test('256-bit descriptors after 128-bit ones: bit 4 of the head is reserved (11.4.9.1)', () => {
  const guest = new Guest();
  guest.start();
  guest.submit(wait(1));
  expect(guest.iommu.read(Reg.iqh, 8)).toBe(16n);
  guest.store(4 * 4096, ...wait(2), 0n, 0n, ...wait(3), 0n, 0n);
  guest.iommu.write(Reg.iqa, 8, (4n << 12n) | (1n << 11n));
  guest.iommu.write(Reg.iqt, 8, 64n);
  expect([guest.iommu.read(Reg.iqh, 8), guest.load(STATUS * 4096)]).toEqual([64n, 3n]);
});

test('a tail at the end of the queue, and the last place before it (IQEI 1)', () => {
  const guest = new Guest();
  guest.start();
  guest.iommu.write(Reg.iqt, 8, 0x1000n);
  expect(guest.iommu.read(Reg.iqercd, 8) & 0xfn).toBe(1n);
  guest.iommu.write(Reg.fsts, 4, 0x10n);
  for (let at = 0; at < 0xff0; at += 16) guest.store(4 * 4096 + at, ...wait(at));
  guest.iommu.write(Reg.iqt, 8, 0xff0n);
  guest.iommu.write(Reg.fsts, 4, 0x10n);
  expect([guest.iommu.read(Reg.iqh, 8), guest.iommu.read(Reg.fsts, 4)]).toEqual([0xff0n, 0n]);
});

test('IQEI is of the first error until IQE is cleared', () => {
  const guest = new Guest();
  guest.start();
  guest.submit([0n]);
  guest.iommu.write(Reg.iqa, 8, 1n << 40n);
  expect(guest.iommu.read(Reg.iqercd, 8) & 0xfn).toBe(3n);
  guest.iommu.write(Reg.fsts, 4, 0x10n);
  expect(guest.iommu.read(Reg.iqercd, 8) & 0xfn).toBe(2n);
});

test('status address bits above HAW do not count', () => {
  const guest = new Guest();
  guest.start();
  const [low, address] = wait(9);
  guest.submit([low, address | (0xffffn << 48n)] as Descriptor);
  expect(guest.load(STATUS * 4096)).toBe(9n);
});

describe('completion events (6.5.2.10)', () => {
  test('taken back when IWC is cleared while they are masked', () => {
    const sent: number[] = [];
    const guest = new Guest({}, 1024, { sendInterrupt: (_, data) => void sent.push(data) });
    guest.start();
    guest.iommu.write(Reg.iectl + 4, 4, 0x41n);
    guest.submit([0x15n]);
    guest.iommu.write(Reg.ics, 4, 1n);
    expect(guest.iommu.read(Reg.iectl, 4)).toBe(0x8000_0000n);
    guest.iommu.write(Reg.iectl, 4, 0n);
    expect(sent).toEqual([]);
  });

  test('sent once, though unmasked again and again', () => {
    const sent: number[] = [];
    const guest = new Guest({}, 1024, { sendInterrupt: (_, data) => void sent.push(data) });
    guest.start();
    guest.submit([0x15n]);
    for (const control of [0n, 1n << 31n, 0n, 0n]) guest.iommu.write(Reg.iectl, 4, control);
    expect(sent.length).toBe(1);
  });

  test('a handler that drives the unit from within: the queue goes on where it was, once', () => {
    let guest: Guest;
    let handled = 0;
    const handle = () => {
      handled++;
      guest.iommu.write(Reg.ics, 4, 1n);
      guest.iommu.read(Reg.fsts, 4);
      if (handled < 20) guest.submit([0x15n], wait(handled));
    };
    guest = new Guest({}, 1024, { sendInterrupt: handle });
    guest.start();
    guest.iommu.write(Reg.iectl, 4, 0n);
    guest.submit([0x15n]);
    expect([handled, guest.load(STATUS * 4096), guest.iommu.read(Reg.iqh, 8)]).toEqual([20, 19n, BigInt(guest.tail)]);
  });
});

test('the index of fault records starts again when both translations are off (7.2.1), not before', () => {
  const guest = new Guest({ faultRecords: 4 });
  guest.start();
  const fault = (device: number) => {
    guest.iommu.translate(device, NO_PASID, 0, 0, READ);
    const index = (guest.iommu.read(Reg.fsts, 4) >> 8n) & 0xffn;
    guest.faults();
    return index;
  };
  expect([fault(1), fault(2)]).toEqual([0n, 1n]);
  guest.global(Cmd.ire);
  guest.global(Cmd.te, false);
  guest.global(Cmd.te);
  expect(fault(3)).toBe(2n);
  guest.global(Cmd.ire, false);
  guest.global(Cmd.te, false);
  guest.global(Cmd.te);
  expect(fault(4)).toBe(0n);
});

test.each([
  ['128-bit', false],
  ['256-bit', true],
])('memory that ends within a descriptor: it cannot be fetched (IQEI 2), %s', (_, wide) => {
  for (let words = 0; words < (wide ? 4 : 2); words++) {
    const end = 1024 * 4096 + 0x1000;
    const memory = new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(end) }]);
    const load64 = memory.load64.bind(memory);
    // A guest may have RAM taken away under the queue, which is coarser; so small are registers of devices.
    memory.load64 = (hi, lo) => (lo >= 1024 * 4096 + 8 * words ? -1 : load64(hi, lo));
    const guest = new Guest(wide ? EVERYTHING : {}, 1024, {}, memory);
    guest.iommu.write(Reg.iqa, 8, (1024n << 12n) | (wide ? 1n << 11n : 0n));
    guest.global(Cmd.qie);
    guest.iommu.write(Reg.iqt, 8, wide ? 32n : 16n);
    expect([guest.iommu.read(Reg.iqercd, 8) & 0xfn, guest.iommu.read(Reg.iqh, 8)]).toEqual([2n, 0n]);
  }
});

test('a queue that became smaller than its head goes on within itself', () => {
  const guest = new Guest();
  guest.start();
  guest.iommu.write(Reg.iqa, 8, (4n << 12n) | 1n);
  for (let at = 0; at < 0x1010; at += 16) guest.store(4 * 4096 + at, ...iotlbPages(1, at));
  guest.iommu.write(Reg.iqt, 8, 0x1010n);
  expect(guest.iommu.read(Reg.iqh, 8)).toBe(0x1010n);
  // Behind the smaller queue, where the head is; what follows lies in it.
  guest.store(4 * 4096 + 0x1010, ...wait(7));
  guest.iommu.write(Reg.iqa, 8, 4n << 12n);
  guest.iommu.write(Reg.iqt, 8, 0x20n);
  expect([guest.iommu.read(Reg.iqh, 8), guest.iommu.read(Reg.fsts, 4), guest.load(STATUS * 4096) & 0xffn]).toEqual([0x20n, 0n, 7n]);
});

test('time-outs of two devices: ITESID is the first one’s until ITE is cleared (11.4.9.9); a queue that cannot be read gives nothing up', () => {
  const guest = new Guest(EVERYTHING);
  guest.start();
  const invalidate = (device: number) => [0x3n | (BigInt(device) << 32n), 0n] as Descriptor;
  guest.submit(invalidate(8), invalidate(16), wait());
  const head = guest.iommu.read(Reg.iqh, 8);
  expect(head).toBe(64n);
  const memory = guest.memory.regions;
  guest.memory.remove(0n);
  guest.iommu.invalidationTimeout(8);
  expect(guest.iommu.read(Reg.iqh, 8)).toBe(head);
  for (const region of memory) guest.memory.add(region);
  guest.iommu.invalidationTimeout(16);
  expect(guest.iommu.read(Reg.iqercd, 8) >> 32n).toBe(8n);
});
