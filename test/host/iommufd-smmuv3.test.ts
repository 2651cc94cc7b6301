import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { CommandQueue, type IommufdHost, smmuv3Stage1, type Vintf, type Viommu } from '../../src/host/iommufd/index.ts';
import { DMA_UNMAPPED, type IommuConfig, smmuv3 } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import { DATA, GUEST_PAGES, guest, IOVA } from './guest-tables.ts';

describe('SMMUv3 stream table entry', () => {
  const config: IommuConfig = { nesting: smmuv3({ tegra241: {} }), pasidLog2: 20, reserved: [{ first: 0x800_0000n, last: 0x80f_ffffn }] };
  const VIOMMU_SMMUV3 = 1;
  const STREAM = 0x100n;
  const ASID = 7;
  const TABLE = { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 48 } as const;

  /** CD of IHI 0070 5.4: 48-bit input, 4K granule, TTB1 off, 48-bit output, AArch64, faults recorded (R), ASID. */
  function contextDescriptor(root: number, asid = ASID): readonly bigint[] {
    const cd0 = 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 35n) | (1n << 41n) | (1n << 45n) | (BigInt(asid) << 48n);
    return [cd0, BigInt(root) << 12n];
  }

  function nested(
    create?: (made: ReturnType<typeof guest>, parent: ReturnType<IommufdHost['createPageTable']>) => Viommu,
    iommu: IommuConfig = config,
  ) {
    const made = guest(iommu);
    const root = made.allocator.allocate(1);
    const table = new ArmTable(made.memory, { ...TABLE, root: BigInt(root) << 12n, allocator: made.allocator });
    const descriptors = made.allocator.allocate(1);
    const view = new DataView(made.ram.buffer);
    for (const [index, word] of contextDescriptor(root).entries()) view.setBigUint64(descriptors * 4096 + index * 8, word, true);
    const parent = made.host.createPageTable(made.device, made.space, { nestParent: true });
    const viommu = create?.(made, parent) ?? made.host.createViommu(made.device, parent, VIOMMU_SMMUV3);
    const ste0 = 1n | (5n << 1n) | (BigInt(descriptors) << 12n);
    return { ...made, root, table, parent, viommu, ste0, descriptors, view };
  }

  test('DMA goes through the guest’s context descriptor and tables', () => {
    const { host, device, viommu, table, ste0, byte } = nested();
    table.map(IOVA, DATA, 2, READ_WRITE);
    const stage = host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n));
    expect(stage.attach(device)).toBe(-errno.ENOENT);
    viommu.addDevice(device, STREAM);
    expect(stage.attach(device)).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    expect(byte(IOVA + 1)).toBe(0xa5);
    expect(byte(IOVA + 2)).toBeNull();
    host.close();
  });

  test('a substream has the table of its own descriptor; S1DSS says what a request without one reaches', () => {
    const { host, device, viommu, table, ste0, view, descriptors, allocator, memory, sim, byte } = nested();
    viommu.addDevice(device, STREAM);
    table.map(IOVA, DATA, 1, READ_WRITE);
    const root = allocator.allocate(1);
    const second = new ArmTable(memory, { ...TABLE, root: BigInt(root) << 12n, allocator });
    second.map(IOVA, DATA + 1, 1, READ_WRITE);
    const write = (at: number, words: readonly bigint[]) =>
      words.forEach((word, index) => void view.setBigUint64(at + index * 8, word, true));
    write(descriptors * 4096 + 3 * 64, contextDescriptor(root, ASID + 1));
    // The same descriptors in two levels, with leaves of 64 (S1Fmt 1): a leaf for substreams 0 to 63, and none behind it.
    const upper = allocator.allocate(1);
    write(upper * 4096, [(BigInt(descriptors) << 12n) | 1n, 0n]);
    const linear = ste0 | (8n << 59n);
    const levels = 1n | (5n << 1n) | (1n << 4n) | (BigInt(upper) << 12n) | (8n << 59n);
    const into = new Uint8Array(1);
    const read = (pasid: number) => (sim.dmaRead(BigInt(IOVA) << 12n, into, pasid) < 0 ? null : into[0]);
    for (const entry of [linear, levels]) {
      expect(host.createStageOne(device, viommu, smmuv3Stage1(entry, 2n)).attach(device)).toBe(0);
      expect([byte(IOVA), read(0), read(3), read(4), read(64), read(1 << 8)]).toEqual([0x5a, 0x5a, 0xa5, null, null, null]);
    }
    expect(host.createStageOne(device, viommu, smmuv3Stage1(linear, 1n)).attach(device)).toBe(0);
    expect([byte(IOVA), byte(DATA), read(3)]).toEqual([null, 0x5a, 0xa5]);
    expect(host.createStageOne(device, viommu, smmuv3Stage1(linear, 0n)).attach(device)).toBe(0);
    expect([byte(IOVA), byte(DATA), read(3)]).toEqual([null, null, 0xa5]);
    host.close();
  });

  test('an invalidation by range forgets (NUM + 1) × 2^SCALE granules', () => {
    const { host, device, viommu, table, ste0, byte } = nested();
    viommu.addDevice(device, STREAM);
    for (let page = 0; page < 8; page++) table.map(IOVA + page, DATA, 1, READ_WRITE);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    for (let page = 0; page < 8; page++) expect(byte(IOVA + page)).toBe(0x5a);
    for (let page = 0; page < 8; page++) {
      table.unmap(IOVA + page, 1);
      table.map(IOVA + page, DATA + 1, 1, READ_WRITE);
    }
    const commands = host.createSmmuInvalidations(viommu);
    // NUM 2, SCALE 1, TG 4 KiB: 6 pages from the second on.
    const va = IOVA + 1;
    commands.addCommand(0x12 | (2 << 12) | (1 << 20), ASID << 16, (va << 12) | (1 << 10), Math.floor(va / 0x100000));
    expect(commands.flush()).toBe(0);
    expect([0, 1, 2, 3, 4, 5, 6, 7].map((page) => byte(IOVA + page))).toEqual([0x5a, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0x5a]);
    host.close();
  });

  test('bypass and abort want no vDEVICE', () => {
    const { host, device, viommu, byte } = nested();
    expect(host.createStageOne(device, viommu, smmuv3Stage1(1n | (4n << 1n), 0n)).attach(device)).toBe(0);
    expect(byte(DATA)).toBe(0x5a);
    expect(host.createStageOne(device, viommu, smmuv3Stage1(1n, 0n)).attach(device)).toBe(0);
    expect(byte(DATA)).toBeNull();
    expect(host.createStageOne(device, viommu, smmuv3Stage1(0n, 0n)).attach(device)).toBe(0);
    expect(byte(DATA)).toBeNull();
    for (const [ste0, ste1] of [
      [1n | (6n << 1n), 0n],
      [1n | (1n << 52n), 0n],
      [1n, 1n << 40n],
      [1n, 2n << 28n],
    ]) {
      expect(() => host.createStageOne(device, viommu, smmuv3Stage1(ste0, ste1))).toThrow(/EIO/);
    }
    host.close();
  });

  test('commands make the hardware forget: by address, by ASID, all; a context descriptor too', () => {
    const { host, device, viommu, table, ste0, byte, view, descriptors, root } = nested();
    viommu.addDevice(device, STREAM);
    table.map(IOVA, DATA, 1, READ_WRITE);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const commands = host.createSmmuInvalidations(viommu);
    const va = [(IOVA << 12) | 1, Math.floor(IOVA / 0x100000)];
    const swap = (to: number) => {
      table.unmap(IOVA, 1);
      table.map(IOVA, to, 1, READ_WRITE);
    };
    expect(byte(IOVA)).toBe(0x5a);
    swap(DATA + 1);
    expect(byte(IOVA)).toBe(0x5a);
    commands.addCommand(0x12, (ASID + 1) << 16, va[0], va[1]);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    commands.addCommand(0x12, ASID << 16, va[0], va[1]);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0xa5);
    swap(DATA);
    commands.addCommand(0x11, ASID << 16, 0, 0);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBe(0x5a);
    view.setBigUint64(descriptors * 4096, 0n, true);
    expect(byte(IOVA)).toBe(0x5a);
    commands.addCommand(0x05, Number(STREAM), 1, 0);
    commands.addCommand(0x30, 0, 0, 0);
    expect(commands.flush()).toBe(0);
    expect(byte(IOVA)).toBeNull();
    expect(root).toBeGreaterThan(0);
    commands.addCommand(0x10, 0, 0, 0);
    commands.addCommand(0x05, 0x200, 1, 0);
    expect(commands.flush()).toBe(-errno.EIO);
    expect(commands.done).toBe(1);
    host.close();
  });

  test('a refused command: all before it are counted, its block of 63 is not carried out, and the driver gives it again', () => {
    const { host, device, viommu, table, ste0, byte, kernel } = nested();
    viommu.addDevice(device, STREAM);
    table.map(IOVA, DATA, 1, READ_WRITE);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const raw = host.createInvalidations(viommu, 1, 16);
    const cooked = host.createSmmuInvalidations(viommu);
    const forget = [0x11, ASID << 16, 0, 0];
    for (const before of [1, 62, 63, 64, 100, 126, 127]) {
      for (const commands of [raw, cooked]) {
        table.unmap(IOVA, 1);
        table.map(IOVA, DATA, 1, READ_WRITE);
        commands.add(forget);
        expect(commands.flush()).toBe(0);
        expect(byte(IOVA)).toBe(0x5a);
        table.unmap(IOVA, 1);
        table.map(IOVA, DATA + 1, 1, READ_WRITE);
        // Only the last before the refused one forgets this address.
        for (let other = 1; other < before; other++) commands.add([0x11, (ASID + 1) << 16, 0, 0]);
        commands.add(forget);
        commands.add([0x46, 0, 0, 0]);
        expect(commands.flush()).toBe(-errno.EIO);
        expect(commands.done).toBe(before);
        const lost = commands === raw && before % 63 !== 0;
        expect(byte(IOVA), `${before} before`).toBe(lost ? 0x5a : 0xa5);
      }
    }
    expect(kernel.hooks.counts.get('IOMMU_HWPT_INVALIDATE')).toBe(7 * 2 * 2 + 7);
    host.close();
  });

  test('an array is copied whole: a tail that is not zero, no entries at all, and nothing is done', () => {
    const { host, device, viommu, table, ste0, byte } = nested();
    viommu.addDevice(device, STREAM);
    table.map(IOVA, DATA, 1, READ_WRITE);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    expect(byte(IOVA)).toBe(0x5a);
    table.unmap(IOVA, 1);
    const wide = host.createInvalidations(viommu, 1, 24);
    wide.add([0x10, 0, 0, 0, 0, 0]);
    wide.add([0x10, 0, 0, 0, 1, 0]);
    expect(wide.flush()).toBe(-errno.E2BIG);
    expect([wide.done, byte(IOVA)]).toEqual([0, 0x5a]);
    wide.add([0x10, 0, 0, 0, 0, 0]);
    expect(wide.flush()).toBe(0);
    expect(byte(IOVA)).toBeNull();
    host.close();
  });

  test.each([
    ['CFGI_CD with a substream', 'plain', 0x05 | (1 << 11), 0x100, 0, 0],
    ['CFGI_CD_ALL with Range', 'default', 0x06, 0x100, 31, 0],
    ['TLBI_NH_ALL with an ASID', 'default', 0x10, 1 << 16, 0, 0],
    ['TLBI_NH_VAA with an ASID', 'default', 0x13, 1 << 16, 0, 0],
    ['TLBI_NSNH_ALL with anything', 'default', 0x30, 1, 0, 0],
    ['ATC_INV without IDR0.ATS', 'default', 0x40, 0x100, 0, 0],
    ['bit 1 of word 1', 'default', 0x12, 0, 2, 0],
    ['NUM without TG', 'default', 0x12 | (1 << 12), 0, 0, 0],
    ['TTL without TG', 'default', 0x12, 0, 1 << 8, 0],
    ['TG with no NUM, SCALE or TTL', 'default', 0x12, 0, 1 << 10, 0],
    ['SCALE above 31', 'default', 0x12 | (1 << 25), 0, 1 << 10, 0],
    ['TG 2 with TTL 1', 'default', 0x12, 0, (2 << 10) | (1 << 8), 0],
    ['a range without IDR3.RIL', 'plain', 0x12 | (1 << 12), 0, 1 << 10, 0],
    ['PREFETCH', 'default', 0x01, 0x100, 0, 0],
    ['CFGI_STE', 'default', 0x03, 0x100, 0, 0],
    ['CFGI_ALL', 'default', 0x04, 0, 31, 0],
    ['TLBI_EL2_ALL', 'default', 0x20, 0, 0, 0],
    ['TLBI_S12_VMALL', 'default', 0x28, 0, 0, 0],
    ['RESUME', 'default', 0x44, 0x100, 0, 0],
  ])('Linux 7.3 refuses %s', (_name, hardware, word0, word1, word2, word3) => {
    // IDR as QEMU's SMMUv3 has it, without ranges: no substreams, no ATS.
    const idr = [0x0d44_101b, 0x0273_0010, 0, 0x1014, 0, 0x74];
    const { host, device, viommu } = nested(undefined, hardware === 'plain' ? { nesting: smmuv3({ idr }) } : config);
    viommu.addDevice(device, STREAM);
    const commands = host.createSmmuInvalidations(viommu);
    commands.addCommand(word0, word1, word2, word3);
    expect(commands.flush()).toBe(-errno.EIO);
    expect(commands.done).toBe(0);
    host.close();
  });

  test('a VMID is taken; the ranges that there are, too', () => {
    const { host, device, viommu } = nested();
    viommu.addDevice(device, STREAM);
    const commands = host.createSmmuInvalidations(viommu);
    commands.addCommand(0x10, 5, 0, 0);
    commands.addCommand(0x12, 5 | (ASID << 16), (1 << 10) | (1 << 8), 0);
    commands.addCommand(0x12 | (1 << 12), 0, 2 << 10, 0);
    commands.addCommand(0x05 | (1 << 11) | (3 << 12), Number(STREAM), 1, 0);
    expect(commands.flush()).toBe(0);
    host.close();
  });

  test('CD.TG0 3 is no granule: the descriptor is bad', () => {
    const { host, device, viommu, ste0, view, descriptors, byte } = nested();
    viommu.addDevice(device, STREAM);
    view.setUint8(descriptors * 4096, view.getUint8(descriptors * 4096) | (3 << 6));
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    expect(byte(IOVA)).toBeNull();
    host.close();
  });

  test('a stream table entry goes with the vIOMMU that its device is on; a closed device’s vDEVICE leaves its ID behind', () => {
    const { host, device, viommu, parent, ste0, space } = nested();
    const other = host.createViommu(device, parent, VIOMMU_SMMUV3);
    const stranger = host.createStageOne(device, other, smmuv3Stage1(ste0, 0n));
    const vdevice = viommu.addDevice(device, STREAM);
    expect(stranger.attach(device)).toBe(-errno.ENOENT);
    stranger.close();
    const { id } = vdevice;
    device.close();
    const made = [host.createSpace(), host.createSpace()];
    expect(made.map((each) => each.id)).not.toContain(id);
    vdevice.close();
    for (const each of made) expect(each.map(0, Number(space.id), 1, READ_WRITE)).toBe(0);
    host.close();
  });

  test('faults are events with the virtual stream ID, in order, and lost ones are counted', () => {
    const { host, device, viommu, ste0, sim } = nested();
    viommu.addDevice(device, STREAM);
    const events = viommu.createEventQueue(1, 32, 2);
    expect(() => viommu.createEventQueue(1, 32, 2)).toThrow(/EEXIST/);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const fail = (page: number) => sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(1));
    for (const page of [1, 2, 3, 4]) expect(fail(page)).toBe(DMA_UNMAPPED);
    const read = events.read();
    expect(read.map(({ lost, data }) => [lost, data?.length ?? null])).toEqual([
      [0, 32],
      [0, 32],
      [2, null],
    ]);
    const record = new DataView((read[0].data as Uint8Array).buffer);
    expect(record.getUint8(0)).toBe(0x10);
    expect(record.getUint32(4, true)).toBe(Number(STREAM));
    // CLASS IN, a write.
    expect(record.getUint32(12, true)).toBe(2 << 8);
    expect(record.getBigUint64(16, true)).toBe(0x1000n);
    expect(events.read()).toEqual([]);
    fail(5);
    expect(events.read()[0]).toMatchObject({ lost: 0 });
    for (const page of [1, 2, 3]) fail(page);
    expect(events.wait(0)).toBe(true);
    expect(events.read()).toHaveLength(3);
    expect(() => viommu.close()).toThrow(/EBUSY/);
    host.close();
  });

  test('sequence numbers of events come round at 2^31 (struct iommufd_vevent_header)', () => {
    const { host, device, viommu, ste0, sim, kernel } = nested();
    viommu.addDevice(device, STREAM);
    const events = viommu.createEventQueue(1, 32, 2);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const sequences = [0x7fff_fffe, 0x7fff_ffff, 0, 2];
    const { read } = kernel;
    kernel.read = (fd, memory, bytes) => {
      const result = read.call(kernel, fd, memory, bytes);
      if (result > 0) new DataView(memory.buffer).setUint32(4, sequences.shift()!, true);
      return result;
    };
    const lost = [...sequences].map(() => {
      sim.dmaWrite(0x1000n, Uint8Array.of(1));
      return events.read().map((event) => event.lost);
    });
    expect(lost.slice(1)).toEqual([[0], [0], [1]]);
    host.close();
  });

  test('a guest’s own command queue is drained by the hardware, with no call to the kernel', () => {
    let vintf!: Vintf;
    const made = nested(({ host, device }, parent) => {
      vintf = host.createVintf(device, parent);
      return vintf.viommu;
    });
    const { host, device, viommu, table, ste0, byte, ram, space, kernel } = made;
    viommu.addDevice(device, STREAM);
    host.createStageOne(device, viommu, smmuv3Stage1(ste0, 0n)).attach(device);
    const RING = 400;
    expect(() => viommu.createHardwareQueue(1, 1, BigInt(RING) << 12n, 256)).toThrow(/EIO/);
    expect(() => viommu.createHardwareQueue(1, 0, (BigInt(RING) << 12n) + 16n, 256)).toThrow(/EINVAL/);
    expect(() => viommu.createHardwareQueue(1, 0, BigInt(GUEST_PAGES) << 12n, 256)).toThrow(/ENOENT/);
    const queue = new CommandQueue(vintf, 0, BigInt(RING) << 12n, new Uint8Array(ram.buffer, RING * 4096, 256));
    expect(() => viommu.createHardwareQueue(1, 0, BigInt(RING) << 12n, 256)).toThrow(/EEXIST/);
    expect(space.unmap(0, GUEST_PAGES)).toBe(-errno.EBUSY);
    queue.enable();
    table.map(IOVA, DATA, 1, READ_WRITE);
    expect(byte(IOVA)).toBe(0x5a);
    table.unmap(IOVA, 1);
    table.map(IOVA, DATA + 1, 1, READ_WRITE);
    const calls = kernel.hooks.total;
    expect(queue.add(0x11, ASID << 16, 0, 0)).toBe(true);
    expect(queue.add(0x46, 0, 0, 0)).toBe(true);
    expect(byte(IOVA)).toBe(0x5a);
    queue.ring();
    expect(queue.idle).toBe(false);
    kernel.step();
    expect(queue.idle).toBe(true);
    expect(byte(IOVA)).toBe(0xa5);
    for (let round = 0; round < 40; round++) {
      for (let left = 16; left > 0; left--) expect(queue.add(0x46, 0, 0, 0)).toBe(true);
      expect(queue.add(0x46, 0, 0, 0)).toBe(false);
      queue.ring();
      kernel.step();
      expect(queue.idle).toBe(true);
    }
    queue.add(0x30, 0, 0, 0);
    queue.ring();
    kernel.step();
    expect(queue.failed).toBe(true);
    expect(kernel.hooks.total).toBe(calls);
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, pinnedBytes: 0, domains: 0 });
  });
});
