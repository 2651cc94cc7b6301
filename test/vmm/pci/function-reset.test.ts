import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VtdIommu } from '../../../src/target/vtd/index.ts';
import { DmaEngine } from '../../../src/vmm/devices/index.ts';
import { FunctionDma, integratedEndpoint, msix, PciFunction, PciHost, powerManagement, requesterId } from '../../../src/vmm/pci/index.ts';
import { reaching } from '../../reaching.ts';

/* PCI Express Base 5.0: Function Level Reset (6.6.2), and the way to D3hot and back (5.3.1.4, 7.5.2). */

const MEMORY = 2;
const BUS_MASTER = 4;
const D3_HOT = 3;
const INITIATE_FLR = 1 << 15;
const BASE = 0xfebf_0000;

function rig({ flr = true, noSoftReset = false, express = true, power = true } = {}) {
  const events: string[] = [];
  const fn: PciFunction = new PciFunction(
    {
      vendor: 0x1efd,
      device: 1,
      classCode: 0xff0000,
      interruptPin: 1,
      bars: [{ bytes: 0x4000, registers: { read: () => 7n, write: () => events.push('write') } }],
      capabilities: [
        msix(2, { bar: 0, offset: 0x1000 }, { bar: 0, offset: 0x2000 }),
        ...(express ? [integratedEndpoint(flr)] : []),
        ...(power ? [powerManagement(noSoftReset)] : []),
      ],
    },
    {
      sendMessage: (_, data) => events.push(`message ${data}`),
      setIntx: (level) => events.push(level ? 'pin' : 'no pin'),
      reset: () => events.push('reset'),
    },
  );
  const host = new PciHost();
  host.add(requesterId(0, 5), fn);
  const at = (id: number) => fn.capabilityOffsets.find((offset) => fn.readConfig(offset, 1) === id) ?? -1;
  const [atMsix, atExpress, atPower] = [at(0x11), at(0x10), at(0x01)] as [number, number, number];
  const start = () => {
    fn.writeConfig(0x10, 4, BASE);
    fn.writeConfig(4, 2, MEMORY | BUS_MASTER);
    fn.writeBar(0, 0x1000, 8, 0xfee0_0000n);
    fn.writeBar(0, 0x1008, 4, 5n);
    fn.writeBar(0, 0x100c, 4, 0n);
    fn.writeConfig(atMsix + 2, 2, 0x8000);
  };
  return {
    fn,
    host,
    events,
    start,
    atExpress,
    atPower,
    atMsix,
    flr: () => fn.writeConfig(atExpress + 8, 2, fn.readConfig(atExpress + 8, 2) | INITIATE_FLR),
    power: (state: number) => fn.writeConfig(atPower + 4, 2, state),
    powerState: () => fn.readConfig(atPower + 4, 2) & 3,
  };
}

/** What is left of what `start` did. */
function kept({ fn, atMsix }: ReturnType<typeof rig>) {
  return {
    bar: fn.readConfig(0x10, 4),
    command: fn.readConfig(4, 2),
    msix: fn.readConfig(atMsix + 2, 2),
    entry: [fn.readBar(0, 0x1000, 8), fn.readBar(0, 0x100c, 4)],
  };
}
const NOTHING = { bar: 0, command: 0, msix: 1, entry: [0n, 1n] };
const ALL = { bar: BASE, command: MEMORY | BUS_MASTER, msix: 0x8001, entry: [0xfee0_0000n, 0n] };

describe('Function Level Reset (6.6.2)', () => {
  test('is declared (7.5.3.3), and takes BARs, command, MSI-X and what is behind the BARs back', () => {
    const all = rig();
    all.start();
    expect([all.fn.readConfig(all.atExpress + 4, 4) >>> 28, kept(all)]).toEqual([1, ALL]);
    all.flr();
    expect([kept(all), all.events]).toEqual([NOTHING, ['reset']]);
  });

  test('its bit reads zero (7.5.3.4), and one byte of the register is enough for it', () => {
    const { fn, flr, events, atExpress } = rig();
    flr();
    expect(fn.readConfig(atExpress + 8, 2) & INITIATE_FLR).toBe(0);
    fn.writeConfig(atExpress + 9, 1, 0x80);
    fn.writeConfig(atExpress + 8, 4, INITIATE_FLR);
    expect(events).toEqual(['reset', 'reset', 'reset']);
    // Other bits, and the same bit of what lies beside it.
    fn.writeConfig(atExpress + 8, 2, 0x78ff);
    fn.writeConfig(atExpress + 8, 1, 0x80);
    fn.writeConfig(atExpress + 8, 1, 0x8000);
    fn.writeConfig(atExpress + 6, 2, 0x8000);
    fn.writeConfig(atExpress + 10, 2, 0x8000);
    expect(events.length).toBe(3);
  });

  test('the payload of the link stays, the rest of the register does not', () => {
    const { fn, flr, atExpress } = rig();
    fn.writeConfig(atExpress + 8, 2, 0x2825);
    flr();
    expect(fn.readConfig(atExpress + 8, 2)).toBe(0x0830);
  });

  test.each([{ flr: false }, { express: false }])('with %j nothing comes of it', (without) => {
    const all = rig(without);
    all.start();
    for (let at = 0; at < 256; at += 2) if (at !== 4 && at !== 0x10 && at !== all.atMsix + 2) all.fn.writeConfig(at, 2, INITIATE_FLR);
    expect([all.fn.readConfig(4, 2), all.events.includes('reset')]).toEqual([MEMORY | BUS_MASTER, false]);
  });

  test('lets go of the pin (6.6.2)', () => {
    const { fn, flr, events } = rig();
    fn.setIntx(true);
    flr();
    expect([events, fn.readConfig(6, 2) & 8]).toEqual([['pin', 'no pin', 'reset'], 0]);
  });
});

describe('power management (5.3.1.4, 7.5.2)', () => {
  test('D0 and D3hot are there, without events', () => {
    const { fn, atPower } = rig();
    expect([fn.readConfig(atPower + 2, 2), fn.readConfig(atPower + 4, 2)]).toEqual([3, 0]);
    expect(rig({ noSoftReset: true }).fn.readConfig(atPower + 4, 2)).toBe(8);
  });

  test('in D3hot there is configuration space and nothing else', () => {
    const { fn, host, start, power, events, powerState } = rig();
    start();
    power(D3_HOT);
    expect([fn.busMaster, fn.addressOf(0), host.readMemory(BigInt(BASE), 4), fn.readBar(0, 0, 4)]).toEqual([false, null, null, 0n]);
    fn.writeBar(0, 0, 4, 1n);
    fn.signal(0);
    fn.setIntx(true);
    expect([events, fn.readConfig(0, 4), powerState()]).toEqual([[], 0x0001_1efd, D3_HOT]);
  });

  test('from D3hot to D0 it is reset', () => {
    const all = rig();
    all.start();
    all.power(D3_HOT);
    expect(all.events).toEqual([]);
    all.power(0);
    expect([kept(all), all.powerState(), all.events]).toEqual([NOTHING, 0, ['reset']]);
  });

  test('with No_Soft_Reset it comes back as it was, and says what it had to say', () => {
    const all = rig({ noSoftReset: true });
    all.start();
    all.power(D3_HOT);
    all.fn.signal(0);
    all.power(0);
    expect([kept(all), all.events]).toEqual([ALL, []]);
    all.fn.writeConfig(all.atMsix + 2, 2, 0);
    all.power(D3_HOT);
    all.fn.setIntx(true);
    expect(all.events).toEqual([]);
    all.power(0);
    expect(all.events).toEqual(['pin']);
  });

  test('what waits in the PBA in D3hot goes out in D0, not before', () => {
    const all = rig({ noSoftReset: true });
    all.start();
    all.fn.writeBar(0, 0x100c, 4, 1n);
    all.fn.signal(0);
    all.fn.writeConfig(all.atMsix + 2, 2, 0xc000);
    all.fn.writeBar(0, 0x100c, 4, 0n);
    all.power(D3_HOT);
    all.fn.writeConfig(all.atMsix + 2, 2, 0x8000);
    expect(all.events).toEqual([]);
    all.power(0);
    expect(all.events).toEqual(['message 5']);
  });

  test.each([1, 2])('state D%i is discarded, from D0 and from D3hot (7.5.2.2)', (state) => {
    const { power, powerState, fn, events } = rig();
    power(state);
    expect([powerState(), fn.readBar(0, 0, 4)]).toEqual([0, 7n]);
    power(D3_HOT);
    power(state);
    expect([powerState(), fn.readBar(0, 0, 4), events]).toEqual([D3_HOT, 0n, []]);
  });

  test('a machine’s reset ends D3hot, and a saved function is where it was', () => {
    const { fn, host, power, powerState } = rig();
    power(D3_HOT);
    const other = rig();
    other.fn.load(JSON.parse(JSON.stringify(fn.save())));
    expect([other.powerState(), other.fn.readBar(0, 0, 4)]).toEqual([D3_HOT, 0n]);
    host.reset();
    expect([powerState(), fn.readBar(0, 0, 4)]).toEqual([0, 7n]);
    const forged = fn.save();
    const bytes = Buffer.from(forged.config, 'hex');
    bytes[rig().atPower + 4] = 2;
    other.power(0);
    other.fn.load({ ...forged, config: bytes.toString('hex') });
    expect([other.powerState(), other.fn.readBar(0, 0, 4)]).toEqual([0, 7n]);
  });
});

test('a reset ends the DMA of the device behind, and D3hot does', () => {
  const memory = GuestMemory.ofBytes(1 << 16);
  const iommu = new VtdIommu({}, { memory });
  iommu.addEndpoint(0x28);
  const engine = new DmaEngine({});
  const { fn } = engine;
  engine.attach(new FunctionDma(fn, 0x28, iommu, memory));
  const at = (id: number) => fn.capabilityOffsets.find((offset) => fn.readConfig(offset, 1) === id)!;
  const dma = () => {
    fn.writeBar(0, 0x08, 8, 0x3000n);
    fn.writeBar(0, 0x10, 4, 4n);
    fn.writeBar(0, 0x1000, 4, 0x55n);
    fn.writeBar(0, 0x18, 4, 2n);
    return [fn.readBar(0, 0x1c, 4), memory.load16(0, 0x3000) < 0 ? -1 : memory.word[0]];
  };
  fn.writeConfig(4, 2, BUS_MASTER);
  expect(dma()).toEqual([0n, 0x55]);
  memory.store64(0, 0x3000, 0, 0);
  fn.writeConfig(at(0x10) + 8, 2, INITIATE_FLR);
  expect([fn.readBar(0, 0x08, 8), fn.readBar(0, 0x1000, 4)]).toEqual([0n, 0n]);
  expect(dma()).toEqual([0xffff_fff3n, 0]);
  fn.writeConfig(4, 2, BUS_MASTER);
  fn.writeConfig(at(0x01) + 4, 2, D3_HOT);
  expect(dma()).toEqual([0n, 0]);
  fn.writeConfig(at(0x01) + 4, 2, 0);
  expect(fn.readBar(0, 0x28, 4)).toBe(0n);
});

describe('a hostile guest', () => {
  const reached = reaching('configuration writes', 'reset', 'D3hot', 'bus master');
  const write = fc.oneof(
    { weight: 1, arbitrary: fc.record({ offset: fc.nat(4095), bytes: fc.constantFrom(1, 2, 4), value: fc.integer() }) },
    {
      weight: 2,
      arbitrary: fc.record({
        offset: fc.constantFrom(4, 0x10, 0x42, 0x54, 0x55, 0x8c),
        bytes: fc.constantFrom(1, 2, 4),
        value: fc.constantFrom(0, 1, 2, 3, 4, 6, 0x80, 0x8000, 0xc000, -1),
      }),
    },
  );

  property.prop([fc.array(write, { minLength: 20, maxLength: 80 }), fc.boolean()], { numRuns: 200 })(
    'by any writes of configuration space finds a function that obeys, and a reset finds it as it was',
    (writes, noSoftReset) => {
      reached();
      const all = rig({ noSoftReset });
      const fresh = all.fn.save();
      for (const { offset, bytes, value } of writes) {
        const resets = all.events.length;
        all.fn.writeConfig(offset, bytes, value);
        if (all.events.slice(resets).includes('reset')) reached('reset');
        const on = all.powerState() === 0;
        if (!on) reached('D3hot');
        expect([0, D3_HOT]).toContain(all.powerState());
        expect(all.fn.readBar(0, 0, 4)).toBe(on ? 7n : 0n);
        if (all.fn.busMaster) reached('bus master');
        expect(all.fn.busMaster).toBe(on && (all.fn.readConfig(4, 2) & BUS_MASTER) !== 0);
        expect(all.fn.readConfig(0, 4)).toBe(0x0001_1efd);
      }
      all.fn.reset();
      expect(all.fn.save()).toEqual(fresh);
    },
  );
});
