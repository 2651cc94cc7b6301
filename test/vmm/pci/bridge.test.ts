import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { PciFunction, PciHost, requesterId } from '../../../src/vmm/pci/index.ts';
import { reaching } from '../../reaching.ts';

const registers = { read: (offset: number) => BigInt(offset) + 7n, write: () => {} };
const endpoint = (device: number, kind: 'memory' | 'memory64' = 'memory') =>
  new PciFunction({ vendor: 0x1efd, device, classCode: 0xff0000, bars: [{ bytes: 4096, kind, registers }] });
const bridge = () => new PciFunction({ vendor: 0x1efd, device: 0xb, classCode: 0x060400, bridge: true });

/** 00:01.0 a bridge; behind it 00.0 an endpoint and 02.0 another bridge, with an endpoint of its own. */
function tree() {
  const host = new PciHost();
  const first = bridge();
  const second = bridge();
  const near = endpoint(1);
  const far = endpoint(2, 'memory64');
  const behindFirst = host.bus.addBridge(1, 0, first);
  behindFirst.add(0, 0, near);
  const behindSecond = behindFirst.addBridge(2, 0, second);
  behindSecond.add(3, 1, far);
  const id = (requester: number) => Number(host.readEcam(requester << 12, 4));
  /** Numbers as firmware gives them, depth first. */
  const number = () => {
    host.writeEcam((requesterId(0, 1) << 12) + 0x18, 4, 0x02_01_00n);
    host.writeEcam((requesterId(1, 2) << 12) + 0x18, 4, 0x02_02_01n);
  };
  return { host, first, second, near, far, behindFirst, behindSecond, id, number };
}

describe('bus numbers (7.5.1.3)', () => {
  test('behind a bridge nobody is reached before software has numbered it', () => {
    const { id, number } = tree();
    expect([id(requesterId(0, 1)), id(requesterId(1, 0)), id(requesterId(2, 3, 1))]).toEqual([0x000b_1efd, 0xffff_ffff, 0xffff_ffff]);
    number();
    expect([id(requesterId(1, 0)), id(requesterId(1, 2)), id(requesterId(2, 3, 1))]).toEqual([0x0001_1efd, 0x000b_1efd, 0x0002_1efd]);
    expect(id(requesterId(3, 0))).toBe(0xffff_ffff);
  });

  test('nobody is reached behind one that has a last bus and no first one', () => {
    const { first, second, id } = tree();
    first.writeConfig(0x1a, 1, 5);
    second.writeConfig(0x18, 4, 0x02_02_01);
    expect(id(requesterId(2, 3, 1))).toBe(0xffff_ffff);
    first.writeConfig(0x19, 1, 1);
    expect(id(requesterId(2, 3, 1))).toBe(0x0002_1efd);
  });

  test('a function that has gone does not take away who came in its place', () => {
    const host = new PciHost();
    const remove = host.add(requesterId(0, 5), endpoint(1));
    remove();
    const later = endpoint(2);
    host.add(requesterId(0, 5), later);
    remove();
    expect(host.functionAt(requesterId(0, 5))).toBe(later);
  });

  test('requests carry the number that the bus has now', () => {
    const { near, far, behindFirst, behindSecond, number, host } = tree();
    expect(behindSecond.requesterOf(far)).toBe(requesterId(0, 3, 1));
    number();
    expect([behindFirst.requesterOf(near), behindSecond.requesterOf(far)]).toEqual([requesterId(1, 0), requesterId(2, 3, 1)]);
    host.writeEcam((requesterId(0, 1) << 12) + 0x18, 4, 0x09_08_00n);
    expect(behindFirst.requesterOf(near)).toBe(requesterId(8, 0));
    expect(behindFirst.requesterOf(far)).toBe(-1);
  });

  test('a bridge has the header of type 1, and no more BARs than that', () => {
    const fn = bridge();
    expect(fn.readConfig(0x0e, 1)).toBe(1);
    fn.writeConfig(0x20, 4, 0xffff_ffff);
    expect(fn.readConfig(0x20, 4)).toBe(0xfff0_fff0);
    const bar = { bytes: 16, registers };
    expect(() => new PciFunction({ vendor: 1, device: 1, classCode: 0, bridge: true, bars: [bar, bar, bar] })).toThrow(RangeError);
    expect(() => new PciHost().bus.addBridge(0, 0, endpoint(1))).toThrow(/no bridge/);
    expect(() => new PciHost().add(requesterId(1, 0), endpoint(1))).toThrow(RangeError);
  });
});

describe('windows', () => {
  test('memory behind a bridge is reached through its window, while its memory enable is set', () => {
    const { host, first, near, number } = tree();
    number();
    near.writeConfig(0x10, 4, 0xe000_2000);
    near.writeConfig(4, 2, 2);
    expect(host.readMemory(0xe000_2008n, 4)).toBeNull();
    first.writeConfig(0x20, 4, 0xe000_e000);
    expect(host.readMemory(0xe000_2008n, 4)).toBeNull();
    first.writeConfig(4, 2, 2);
    expect(host.readMemory(0xe000_2008n, 4)).toBe(15n);
    first.writeConfig(0x20, 4, 0xe010_e010);
    expect(host.readMemory(0xe000_2008n, 4)).toBeNull();
  });

  test('the prefetchable window has 64-bit addresses, through two bridges', () => {
    const { host, first, second, far, number } = tree();
    number();
    far.writeConfig(0x10, 4, 0x3000);
    far.writeConfig(0x14, 4, 0x5);
    far.writeConfig(4, 2, 2);
    for (const one of [first, second]) {
      one.writeConfig(0x24, 4, 0);
      one.writeConfig(0x28, 4, 5);
      one.writeConfig(0x2c, 4, 5);
      one.writeConfig(4, 2, 2);
    }
    expect(host.readMemory(0x5_0000_3010n, 4)).toBe(0x17n);
    expect(host.writeMemory(0x5_0010_3010n, 4, 1n)).toBe(false);
    // Its last byte is another 4 GiB's.
    far.writeConfig(0x14, 4, 0x6);
    expect(host.readMemory(0x6_0000_3010n, 4)).toBeNull();
    for (const one of [first, second]) one.writeConfig(0x2c, 4, 6);
    expect(host.readMemory(0x6_0000_3010n, 4)).toBe(0x17n);
  });

  test('a reset takes numbers and windows back', () => {
    const { host, id, number } = tree();
    number();
    host.writePort(0xcf8, 4, 0x8000_2804);
    host.reset();
    expect([host.readPort(0xcf8, 4), host.readPort(0xcfc, 4)]).toEqual([0, 0xffff_ffff]);
    expect(id(requesterId(1, 0))).toBe(0xffff_ffff);
  });
});

describe('a hostile guest', () => {
  const reached = reaching('configuration of a tree', 'behind a bridge', 'two BARs at one place', 'nobody there');
  const places = [requesterId(0, 1), requesterId(1, 0), requesterId(1, 2), requesterId(2, 3, 1), requesterId(0, 5)];
  const write = fc.record({
    requester: fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...places) }, { weight: 1, arbitrary: fc.nat(0xffff) }),
    offset: fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom(4, 4, 0x10, 0x10, 0x14, 0x18, 0x20, 0x24, 0x28, 0x2c) },
      { weight: 1, arbitrary: fc.nat(4095) },
    ),
    bytes: fc.constantFrom(1, 2, 4, 4, 8),
    value: fc.oneof(
      fc.constantFrom(2n, 7n, 0xe000_0000n, 0xe000_e000n, 0x02_01_00n, 0x02_02_01n, 0xff_01_00n, 0n),
      fc.bigInt(0n, (1n << 64n) - 1n),
    ),
  });

  property.prop([fc.array(write, { minLength: 10, maxLength: 60 })], { numRuns: 200 })(
    'may give any numbers, windows and addresses, those of others too: who answers is who claims the address, and nothing throws',
    (writes) => {
      reached();
      const { host, near, far, first, second, number } = tree();
      const beside = endpoint(3);
      host.add(requesterId(0, 5), beside);
      number();
      for (const fn of [first, second, near, far, beside]) fn.writeConfig(4, 2, 2);
      for (const { requester, offset, bytes, value } of writes) {
        host.writeEcam((requester << 12) + offset, bytes, BigInt.asUintN(8 * bytes, value));
        expect(host.readEcam((requester << 12) + offset, bytes) >> BigInt(8 * bytes)).toBe(0n);
        host.writePort(0xcf8, 4, Number(0x8000_0000n | (value & 0xff_ffffn)));
        host.readPort(0xcfc + (offset & 3), 1);
        const claimed = [near, far, beside].map((fn) => fn.addressOf(0)).filter((address) => address !== null);
        if (new Set(claimed).size < claimed.length) reached('two BARs at one place');
        for (const address of [...claimed, value, 0n, 0xe000_0010n]) {
          const hit = host.bus.decode(address, false);
          if (hit === null) reached('nobody there');
          expect(host.readMemory(address, 4)).toBe(hit === null ? null : hit.offset > 0xffc ? 0n : BigInt(hit.offset) + 7n);
          if (hit === null) continue;
          expect(hit.fn.addressOf(hit.bar)! + BigInt(hit.offset)).toBe(address);
          if (hit.fn !== beside) reached('behind a bridge');
        }
        // Whatever it numbered: a function is found where its requests say that it is, or not at all.
        for (const [requester, found] of places.map((place) => [place, host.functionAt(place)] as const))
          if (found === beside) expect(requester).toBe(requesterId(0, 5));
      }
    },
  );
});
