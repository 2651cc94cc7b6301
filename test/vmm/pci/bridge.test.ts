import { describe, expect, test } from 'vitest';
import { PciFunction, PciHost, requesterId } from '../../../src/vmm/pci/index.ts';

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
