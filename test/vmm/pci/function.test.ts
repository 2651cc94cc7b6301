import { describe, expect, test } from 'vitest';
import { READ } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VtdIommu } from '../../../src/target/vtd/index.ts';
import {
  ats,
  FunctionDma,
  integratedEndpoint,
  msi,
  msix,
  NOT_BUS_MASTER,
  type PciDescription,
  PciFunction,
  PciHost,
  pasid,
  pri,
  requesterId,
  vendor,
} from '../../../src/vmm/pci/index.ts';

const MEMORY = 2;
const BUS_MASTER = 4;

/** Remembers what was written, and answers with the place of a read. */
function block() {
  const writes: [number, number, bigint][] = [];
  return {
    writes,
    read: (offset: number, bytes: number) => BigInt(offset * 16 + bytes),
    write: (offset: number, bytes: number, value: bigint) => void writes.push([offset, bytes, value]),
  };
}

function rig(description: Partial<PciDescription> = {}) {
  const messages: [bigint, number][] = [];
  const levels: boolean[] = [];
  const registers = block();
  const fn = new PciFunction(
    { vendor: 0x1af4, device: 0x1042, classCode: 0x010000, bars: [{ bytes: 0x4000, registers }], ...description },
    { sendMessage: (address, data) => messages.push([address, data]), setIntx: (level) => levels.push(level) },
  );
  return { fn, messages, levels, registers };
}

/** The capabilities as software finds them (7.5.1.1.11). */
function capabilitiesOf(fn: PciFunction): number[][] {
  const found: number[][] = [];
  for (let at = fn.readConfig(0x34, 1); at !== 0 && found.length < 48; at = fn.readConfig(at + 1, 1))
    found.push([fn.readConfig(at, 1), at]);
  return found;
}

describe('header (7.5.1)', () => {
  test('identification is read-only', () => {
    const { fn } = rig({ subsystem: 0x40, revision: 1, interruptPin: 1 });
    for (let at = 0; at < 64; at += 4) if (at !== 4) fn.writeConfig(at, 4, 0xffff_ffff);
    expect(fn.readConfig(0, 4)).toBe(0x1042_1af4);
    expect(fn.readConfig(8, 4)).toBe(0x0100_0001);
    expect(fn.readConfig(0x2c, 4)).toBe(0x0040_1af4);
    expect(fn.readConfig(0x3c, 4)).toBe(0x01ff);
  });

  test('command keeps the bits that the function has', () => {
    const { fn } = rig();
    fn.writeConfig(4, 4, 0xffff_ffff);
    expect(fn.readConfig(4, 2)).toBe(0x0547);
  });

  test.each([
    ['memory', 0x4000, 0xffff_c000, 0],
    ['memory64', 0x4000, 0xffff_c004, 0xffff_ffff],
    ['io', 0x20, 0xffff_ffe1, 0],
  ] as const)('a BAR of kind %s says its size (7.5.1.2.1)', (kind, bytes, low, high) => {
    const { fn } = rig({ bars: [{ bytes, kind, registers: block() }] });
    fn.writeConfig(0x10, 4, 0xffff_ffff);
    fn.writeConfig(0x14, 4, 0xffff_ffff);
    expect([fn.readConfig(0x10, 4), fn.readConfig(0x14, 4)]).toEqual([low, high]);
  });

  test('a BAR answers only while its enable is set', () => {
    const { fn } = rig();
    fn.writeConfig(0x10, 4, 0xfebf_0000);
    expect(fn.addressOf(0)).toBeNull();
    fn.writeConfig(4, 2, MEMORY);
    expect(fn.addressOf(0)).toBe(0xfebf_0000n);
  });

  test('what is not possible is refused', () => {
    expect(() => rig({ bars: [{ bytes: 24, registers: block() }] })).toThrow(RangeError);
    expect(() => rig({ interruptPin: 5 })).toThrow(RangeError);
    expect(() =>
      rig({
        bars: [
          { bytes: 16, kind: 'memory64', registers: block() },
          { bytes: 16, registers: block() },
        ],
      }),
    ).toThrow(RangeError);
    expect(() => rig({ capabilities: [{ id: 9, bytes: 193, fields: [] }] })).toThrow(RangeError);
    // The last place has none behind it for the upper half.
    expect(() =>
      rig({ bars: Array.from({ length: 6 }, (_, i) => (i < 5 ? null : { bytes: 16, kind: 'memory64', registers: block() })) }),
    ).toThrow(RangeError);
  });

  test.each([
    ['a table behind the end of its BAR', 0, 0x3ff8, 0, 0],
    ['a table in a BAR that there is not', 1, 0, 0, 0x2000],
    ['pending bits behind the end', 0, 0, 0, 0x4000],
  ] as const)('MSI-X with %s is refused (7.7.2.3, 7.7.2.4)', (_, bar, table, pendingBar, pending) => {
    expect(() => rig({ capabilities: [msix(3, { bar, offset: table }, { bar: pendingBar, offset: pending })] })).toThrow(
      /^PCI: MSI-X reaches/,
    );
  });
});

describe('capabilities', () => {
  test('are a list in the order of the declaration, extended ones too (7.5.1.1.11, 7.6.3)', () => {
    const { fn } = rig({
      capabilities: [vendor([], 20), integratedEndpoint(), msi(2)],
      extendedCapabilities: [ats(), pri(), pasid(20)],
    });
    expect(capabilitiesOf(fn).map(([id]) => id)).toEqual([9, 0x10, 5]);
    expect(fn.readConfig(6, 2) & 0x10).toBe(0x10);
    expect(fn.capabilityOffsets).toEqual(capabilitiesOf(fn).map(([, at]) => at));
    const extended: number[] = [];
    for (let at = 0x100; at !== 0; at = fn.readConfig(at, 4) >>> 20) extended.push(fn.readConfig(at, 2));
    expect(extended).toEqual([0x0f, 0x13, 0x1b]);
  });

  test('one that ends where configuration space of 256 bytes does fits', () => {
    expect(rig({ capabilities: [{ id: 9, bytes: 192, fields: [] }] }).fn.capabilityOffsets).toEqual([0x40]);
  });

  test('ATS says how many invalidations it takes, 32 as 0 (10.5.1.2)', () => {
    const depths = [1, 31, 32].map((depth) => rig({ extendedCapabilities: [ats(depth)] }).fn.readConfig(0x104, 2) & 0x1f);
    expect(depths).toEqual([1, 31, 0]);
  });

  test('without any, the status says so', () => {
    const { fn } = rig();
    expect([fn.readConfig(0x34, 1), fn.readConfig(6, 2), fn.readConfig(0x100, 4)]).toEqual([0, 0, 0]);
  });
});

describe('MSI-X (7.7.2)', () => {
  const description = { capabilities: [msix(3, { bar: 0, offset: 0x1000 }, { bar: 0, offset: 0x2000 })] };
  const CONTROL = 0x42;

  function set(fn: PciFunction, vector: number, address: bigint, data: number, masked: number): void {
    const at = 0x1000 + 16 * vector;
    fn.writeBar(0, at, 8, address);
    fn.writeBar(0, at + 8, 4, BigInt(data));
    fn.writeBar(0, at + 12, 4, BigInt(masked));
  }

  test('a vector sends its entry, once MSI-X and bus mastering are on', () => {
    const { fn, messages } = rig(description);
    set(fn, 1, 0xfee0_1000n, 0x41, 0);
    expect(fn.signal(1)).toBe(false);
    fn.writeConfig(CONTROL, 2, 0x8000);
    fn.writeConfig(4, 2, BUS_MASTER);
    expect(fn.signal(1)).toBe(true);
    expect(messages).toEqual([[0xfee0_1000n, 0x41]]);
    // A message is a write of the function's own (7.5.1.1.3).
    fn.writeConfig(4, 2, 0);
    expect([fn.signal(1), messages.length]).toEqual([true, 1]);
  });

  test('what comes while masked waits in the PBA, and goes out when unmasked; several are one', () => {
    const { fn, messages } = rig(description);
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(CONTROL, 2, 0x8000);
    set(fn, 2, 0xfee0_0000n, 5, 1);
    fn.signal(2);
    fn.signal(2);
    expect(fn.readBar(0, 0x2000, 8)).toBe(4n);
    expect(messages).toEqual([]);
    fn.writeBar(0, 0x102c, 4, 0n);
    expect(messages).toEqual([[0xfee0_0000n, 5]]);
    expect(fn.readBar(0, 0x2000, 8)).toBe(0n);
  });

  test('the function mask holds all back', () => {
    const { fn, messages } = rig(description);
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(CONTROL, 2, 0xc000);
    set(fn, 0, 0xfee0_0000n, 5, 0);
    fn.signal(0);
    expect(messages).toEqual([]);
    fn.writeConfig(CONTROL, 2, 0x8000);
    expect(messages).toEqual([[0xfee0_0000n, 5]]);
  });

  test('entries are masked after reset, and read as written; what lies beside the table is the BAR’s', () => {
    const { fn, registers } = rig(description);
    expect(fn.readBar(0, 0x100c, 4)).toBe(1n);
    set(fn, 0, 0x1_fee0_0000n, 7, 0);
    expect([fn.readBar(0, 0x1000, 8), fn.readBar(0, 0x1008, 4)]).toEqual([0x1_fee0_0000n, 7n]);
    expect(fn.readBar(0, 0x1030, 4)).toBe(0x1030n * 16n + 4n);
    expect(registers.writes).toEqual([]);
    // The PBA is of whole quadwords (7.7.2.7), behind which the BAR's registers begin.
    expect([fn.readBar(0, 0x2004, 4), fn.readBar(0, 0x2008, 4)]).toEqual([0n, 0x2008n * 16n + 4n]);
    fn.reset();
    expect([fn.readBar(0, 0x1000, 8), fn.readBar(0, 0x100c, 4)]).toEqual([0n, 1n]);
    fn.writeConfig(CONTROL, 2, 0x8000);
    fn.signal(1);
    expect(fn.readBar(0, 0x2000, 8)).toBe(2n);
    fn.reset();
    expect(fn.readBar(0, 0x2000, 8)).toBe(0n);
  });

  test('what reaches over the end of a BAR is nowhere', () => {
    const { fn, registers } = rig(description);
    fn.writeBar(0, 0x3ffc, 8, 1n);
    expect([fn.readBar(0, 0x3ffc, 8), fn.readBar(0, 0x3ffc, 4), registers.writes]).toEqual([0n, 0x3ffcn * 16n + 4n, []]);
  });

  test('what waits does not outlive a reset, nor does the choice of MSI-X', () => {
    const { fn, messages } = rig(description);
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(CONTROL, 2, 0xc000);
    set(fn, 0, 0xfee0_0000n, 5, 0);
    fn.signal(0);
    expect(fn.readBar(0, 0x2000, 8)).toBe(1n);
    fn.reset();
    expect([fn.readBar(0, 0x2000, 8), fn.msixEnabled, fn.busMaster]).toEqual([0n, false, false]);
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(CONTROL, 2, 0x8000);
    set(fn, 0, 0xfee0_0000n, 5, 0);
    expect(messages).toEqual([]);
  });

  test('without bus mastering no message goes out (7.5.1.1.3), and a vector that there is not is none', () => {
    const { fn, messages } = rig(description);
    fn.writeConfig(CONTROL, 2, 0x8000);
    set(fn, 0, 0xfee0_0000n, 5, 0);
    expect([fn.signal(0), fn.signal(3)]).toEqual([true, true]);
    fn.writeConfig(4, 2, BUS_MASTER);
    expect(fn.signal(3)).toBe(true);
    expect(messages).toEqual([]);
  });

  test('the pin is quiet while MSI-X is on, and speaks again when it is off', () => {
    const { fn, levels } = rig({ ...description, interruptPin: 1 });
    fn.setIntx(true);
    fn.writeConfig(CONTROL, 2, 0x8000);
    fn.writeConfig(CONTROL, 2, 0);
    expect(levels).toEqual([true, false, true]);
    fn.reset();
    expect([levels.at(-1), fn.readConfig(6, 2) & 8]).toEqual([false, 0]);
  });

  test('a saved function goes on where it was', () => {
    const { fn } = rig(description);
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(CONTROL, 2, 0x8000);
    set(fn, 0, 0xfee0_0000n, 9, 1);
    fn.signal(0);
    const other = rig(description);
    other.fn.load(JSON.parse(JSON.stringify(fn.save())));
    other.fn.writeBar(0, 0x100c, 4, 0n);
    expect(other.messages).toEqual([[0xfee0_0000n, 9]]);
    const saved = fn.save();
    const { table, pending } = saved.msix!;
    for (const wrong of [
      { config: '00' },
      { msix: null },
      { msix: { table: '', pending } },
      { msix: { table, pending: `${pending}00` } },
      { msix: { table: table.replace('0', 'g'), pending } },
      { msix: { table: [table], pending } },
      { intx: 1 },
    ])
      expect(() => other.fn.load({ ...saved, ...wrong } as never), JSON.stringify(wrong)).toThrow(TypeError);
    // Three vectors; of more nothing waits.
    other.fn.load({ ...saved, msix: { table, pending: 'ff'.repeat(8) } });
    expect(other.fn.readBar(0, 0x2000, 8)).toBe(7n);
  });
});

describe('MSI (7.7.1)', () => {
  test('data carries the vector in as many low bits as software enabled', () => {
    const { fn, messages } = rig({ capabilities: [msi(4)] });
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(0x44, 4, 0xfee0_0000);
    fn.writeConfig(0x48, 4, 1);
    fn.writeConfig(0x4c, 2, 0x63);
    fn.writeConfig(0x42, 2, 1 | (1 << 4));
    for (const vector of [0, 1, 3]) fn.signal(vector);
    expect(messages).toEqual([0x62, 0x63, 0x63].map((data) => [0x1_fee0_0000n, data]));
    // More than there are: the last one that there is.
    fn.writeConfig(0x42, 2, 1 | (5 << 4));
    fn.signal(9);
    expect(messages.at(-1)?.[1]).toBe(0x63);
  });

  test('a masked vector waits', () => {
    const { fn, messages } = rig({ capabilities: [msi(1, true)] });
    fn.writeConfig(4, 2, BUS_MASTER);
    fn.writeConfig(0x42, 2, 1);
    fn.writeConfig(0x50, 4, 1);
    fn.signal(0);
    expect([messages.length, fn.readConfig(0x54, 4)]).toEqual([0, 1]);
    fn.writeConfig(0x50, 4, 0);
    expect([messages.length, fn.readConfig(0x54, 4)]).toEqual([1, 0]);
  });
});

test('a saved function has the messages of MSI that wait, the last of 32 vectors, too', () => {
  const { fn, messages } = rig({ capabilities: [msi(32, true)] });
  fn.writeConfig(4, 2, BUS_MASTER);
  fn.writeConfig(0x44, 4, 0xfee0_0000);
  fn.writeConfig(0x42, 2, 1 | (5 << 4));
  fn.writeConfig(0x50, 4, 0x8000_0001);
  for (const vector of [0, 30, 31]) fn.signal(vector);
  expect([messages.map(([, data]) => data), fn.readConfig(0x54, 4)]).toEqual([[30], 0x8000_0001]);
  const other = rig({ capabilities: [msi(32, true)] });
  other.fn.load(JSON.parse(JSON.stringify(fn.save())));
  expect(other.fn.readConfig(0x54, 4)).toBe(0x8000_0001);
  other.fn.writeConfig(0x50, 4, 0);
  expect([other.messages.map(([, data]) => data), other.fn.readConfig(0x54, 4)]).toEqual([[0, 31], 0]);
  // What the function could not have had is not taken.
  const one = rig({ capabilities: [msi(1, true)] });
  one.fn.load(fn.save());
  expect(one.fn.readConfig(0x54, 4)).toBe(1);
});

describe('MSI beside the rest', () => {
  const CONTROL = 0x42;
  function started() {
    const all = rig({ interruptPin: 1, capabilities: [msi(8)] });
    all.fn.writeConfig(4, 2, BUS_MASTER);
    all.fn.writeConfig(0x44, 4, 0xfee0_0000);
    all.fn.writeConfig(0x4c, 2, 0x4f);
    return all;
  }

  test('all bits of the data above the vector’s are software’s (7.7.1.5)', () => {
    const { fn, messages } = started();
    // Four of the eight.
    fn.writeConfig(CONTROL, 2, 0x21);
    fn.signal(2);
    expect(messages).toEqual([[0xfee0_0000n, 0x4e]]);
  });

  test('the pin is quiet while MSI is on', () => {
    const { fn, levels } = started();
    fn.setIntx(true);
    fn.writeConfig(CONTROL, 2, 1);
    fn.writeConfig(CONTROL, 2, 0);
    expect(levels).toEqual([true, false, true]);
  });
});

test('an I/O BAR answers in I/O space, while the I/O enable is set, and not the other', () => {
  const host = new PciHost();
  const registers = block();
  const { fn } = rig({ bars: [{ bytes: 16, kind: 'io', registers }] });
  host.add(requesterId(0, 5), fn);
  fn.writeConfig(0x10, 4, 0xc000);
  fn.writeConfig(4, 2, MEMORY);
  expect([host.readIo(0xc004, 4), host.readMemory(0xc004n, 4)]).toEqual([null, null]);
  fn.writeConfig(4, 2, 1);
  expect([host.readIo(0xc004, 4), host.readMemory(0xc004n, 4), host.readIo(0xc010, 1)]).toEqual([0x44n, null, null]);
  expect([host.writeIo(0xc008, 2, 1n), registers.writes]).toEqual([true, [[8, 2, 1n]]]);
});

describe('INTx (7.5.1.1.3)', () => {
  test('the pin follows the wish while it is not disabled; the status always does', () => {
    const { fn, levels } = rig({ interruptPin: 1 });
    fn.setIntx(true);
    fn.writeConfig(4, 2, 1 << 10);
    expect([levels, fn.readConfig(6, 2) & 8]).toEqual([[true, false], 8]);
    fn.writeConfig(4, 2, 0);
    fn.setIntx(false);
    expect([levels, fn.readConfig(6, 2) & 8]).toEqual([[true, false, true, false], 0]);
  });

  test('MSI and MSI-X take its place (7.7.1.2, 7.7.2.2), and a reset lets go of it', () => {
    const capabilities = [msi(), msix(1, { bar: 0, offset: 0 }, { bar: 0, offset: 0x1000 })];
    const { fn, levels } = rig({ interruptPin: 1, capabilities });
    const [atMsi, atMsix] = fn.capabilityOffsets as [number, number];
    fn.setIntx(true);
    for (const [at, enable] of [
      [atMsi, 1],
      [atMsix, 0x8000],
    ] as const) {
      fn.writeConfig(at + 2, 2, enable);
      fn.writeConfig(at + 2, 2, 0);
    }
    expect(levels).toEqual([true, false, true, false, true]);
    fn.reset();
    expect([levels.at(-1), fn.readConfig(6, 2) & 8]).toEqual([false, 0]);
  });

  test('a function without a pin has none', () => {
    const { fn, levels } = rig();
    fn.setIntx(true);
    expect(levels).toEqual([]);
  });
});

describe('host bridge', () => {
  test('ECAM and the ports see one space; nobody answers with ones (7.2.2)', () => {
    const host = new PciHost();
    const { fn } = rig();
    const remove = host.add(requesterId(0, 5), fn);
    expect(host.readEcam(5 << 15, 4)).toBe(0x1042_1af4n);
    expect(host.readEcam(5 << 15, 8)).toBe((BigInt(fn.readConfig(4, 4)) << 32n) | 0x1042_1af4n);
    host.writeEcam((5 << 15) + 4, 2, 6n);
    host.writeEcam((5 << 15) + 0x0c, 8, 0xfebf_0000_0000_0000n);
    expect([fn.readConfig(0x0c, 4), fn.readConfig(0x10, 4)]).toEqual([0, 0xfebf_0000]);
    host.writePort(0xcf8, 4, 0x8000_2804);
    expect(host.readPort(0xcfc, 2)).toBe(6);
    host.writePort(0xcfd, 1, 4);
    expect(fn.readConfig(4, 2)).toBe(0x406);
    // The way of QEMU's libqos: the byte in the address, where the two bits read as zero (3.2.2.3.2).
    host.writePort(0xcf8, 4, 0x8000_2802);
    expect([host.readPort(0xcfc, 2), host.readPort(0xcfe, 2), host.readPort(0xcf8, 4)]).toEqual([0x1042, 0x1042, 0x8000_2800]);
    // Bits 30:24 are none (3.2.2.3.2).
    host.writePort(0xcf8, 4, 0xff00_2800);
    expect([host.readPort(0xcf8, 4), host.readPort(0xcfc, 4)]).toEqual([0x8000_2800, 0x1042_1af4]);
    host.writePort(0xcf8, 4, 0x8000_2805);
    host.writePort(0xcfc, 1, 0);
    expect(fn.readConfig(4, 2)).toBe(6);
    expect(host.readEcam(6 << 15, 4)).toBe(0xffff_ffffn);
    expect(() => host.add(0x28, fn)).toThrow(RangeError);
    remove();
    expect(host.readPort(0xcfc, 2)).toBe(0xffff);
  });

  test('an access at the edge of a function, or to nobody, stays what it is', () => {
    const host = new PciHost();
    const { fn } = rig();
    host.add(requesterId(0, 5), fn);
    host.writeEcam((5 << 15) + 0xffe, 4, 0xffff_ffffn);
    expect(host.readEcam((5 << 15) + 0xffe, 4)).toBe(0n);
    for (const requester of [requesterId(0, 5, 1), requesterId(7, 5), requesterId(255, 31, 7)]) {
      host.writeEcam(requester << 12, 8, 0n);
      expect(host.readEcam(requester << 12, 8)).toBe(0xffff_ffff_ffff_ffffn);
      expect(host.readEcam((requester << 12) + 3, 1)).toBe(0xffn);
    }
    expect(host.readMemory(0xffff_ffff_ffff_fff8n, 8)).toBeNull();
    expect(host.writeMemory(0n, 1, 1n)).toBe(false);
    expect([host.readIo(0xcf8, 4), host.writeIo(0xffff, 1, 1n)]).toEqual([null, false]);
    expect(fn.readConfig(0, 4)).toBe(0x1042_1af4);
  });

  test('a BAR that is moved answers at its new place at once, and nowhere while its enable is off', () => {
    const host = new PciHost();
    const { fn, registers } = rig();
    host.add(requesterId(0, 5), fn);
    fn.writeConfig(0x10, 4, 0xfebf_0000);
    fn.writeConfig(4, 2, MEMORY);
    // Firmware's way to the size, with the enable on: no address is lost by it.
    fn.writeConfig(0x10, 4, 0xffff_ffff);
    expect(host.readMemory(0xfebf_0000n, 4)).toBeNull();
    fn.writeConfig(0x10, 4, 0xe000_0000);
    expect([host.readMemory(0xfebf_0000n, 4), host.readMemory(0xe000_0004n, 4)]).toEqual([null, 0x44n]);
    fn.writeConfig(4, 2, 0);
    expect([host.readMemory(0xe000_0004n, 4), host.writeMemory(0xe000_0004n, 4, 1n), registers.writes]).toEqual([null, false, []]);
    // An access over the end is none of the BAR's registers.
    fn.writeConfig(4, 2, MEMORY);
    expect([host.readMemory(0xe000_3ffcn, 8), host.writeMemory(0xe000_3ffcn, 8, 1n), registers.writes]).toEqual([0n, true, []]);
  });

  test('memory goes to the BAR that software put there', () => {
    const host = new PciHost();
    const { fn, registers } = rig();
    host.add(requesterId(0, 5), fn);
    fn.writeConfig(0x10, 4, 0xfebf_0000);
    expect(host.readMemory(0xfebf_0010n, 4)).toBeNull();
    fn.writeConfig(4, 2, MEMORY);
    expect(host.readMemory(0xfebf_0010n, 4)).toBe(0x104n);
    expect(host.writeMemory(0xfebf_0020n, 8, 5n)).toBe(true);
    expect(host.writeMemory(0xfebf_4000n, 8, 5n)).toBe(false);
    expect(registers.writes).toEqual([[0x20, 8, 5n]]);
  });
});

test('a function does no DMA before bus mastering is on', () => {
  const memory = GuestMemory.ofBytes(1 << 16);
  const iommu = new VtdIommu({}, { memory });
  iommu.addEndpoint(0x28);
  const { fn } = rig();
  const dma = new FunctionDma(fn, 0x28, iommu, memory);
  expect(dma.read(0x1000n, new Uint8Array(8))).toBe(NOT_BUS_MASTER);
  fn.writeConfig(4, 2, BUS_MASTER);
  memory.store32(0, 0x1000, 77);
  const bytes = new Uint8Array(4);
  expect(dma.transfer(0, 0x1000, bytes, READ, -1)).toBe(0);
  expect(bytes[0]).toBe(77);
});

test('PASIDs go out while their enable is set (7.8.9.3), where the function declares them', () => {
  const memory = GuestMemory.ofBytes(1 << 16);
  const iommu = new VtdIommu({}, { memory });
  iommu.addEndpoint(0x28);
  const byPasid = (fn: PciFunction) => new FunctionDma(fn, 0x28, iommu, memory).transfer(0, 0x1000, new Uint8Array(4), READ, 1);
  const { fn } = rig({ capabilities: [integratedEndpoint()], extendedCapabilities: [ats(), pasid(20)] });
  fn.writeConfig(4, 2, BUS_MASTER);
  expect(byPasid(fn)).toBe(NOT_BUS_MASTER);
  fn.writeConfig(0x108 + 6, 2, 1);
  // The unit's answer, whatever it is: it was asked.
  expect(byPasid(fn)).not.toBe(NOT_BUS_MASTER);
  fn.reset();
  fn.writeConfig(4, 2, BUS_MASTER);
  expect([fn.mayUsePasids, byPasid(fn)]).toEqual([false, NOT_BUS_MASTER]);
  const plain = rig().fn;
  plain.writeConfig(4, 2, BUS_MASTER);
  expect(byPasid(plain)).not.toBe(NOT_BUS_MASTER);
});
