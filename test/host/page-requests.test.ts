import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { PageRequestQueue } from '../../src/host/host.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { simKernel } from '../../src/host/sim/index.ts';

/* Who waits for a page, and which answer is whose: the kernel gives out cookies that are free again. */

function start() {
  const devices = ['vfio0', 'vfio1'].map((name) => ({ name, pageRequests: true }));
  const kernel = simKernel({ iommus: [{ pasidLog2: 8 }], devices });
  const host = new IommufdHost(kernel);
  const queue = host.pageRequests.createQueue();
  const space = host.createSpace({ pageRequests: queue });
  const [one, other] = kernel.devices.map(({ path }) => host.openDevice(path));
  for (const device of [one, other]) expect(space.attach(device)).toBe(0);
  const ask = (name: string, page: number) => kernel.device(name).dmaRead(BigInt(page) << 12n, new Uint8Array(1));
  return { kernel, host, queue, space, one, other, ask };
}

describe('page requests', () => {
  test('are told once, with their device, and answered one by one in any order', () => {
    const { kernel, host, queue, one, other, ask } = start();
    ask('vfio0', 1);
    ask('vfio1', 2);
    const [first, second] = queue.read();
    expect([first.device, first.address, second.device, second.address]).toEqual([one, 0x1000n, other, 0x2000n]);
    expect(queue.read()).toEqual([]);
    queue.respond(first.cookie, true);
    // Its cookie is free, and the other one's is not.
    ask('vfio0', 3);
    const [third] = queue.read();
    expect([third.cookie === first.cookie, third.cookie === second.cookie]).toEqual([true, false]);
    queue.respond(second.cookie, false);
    queue.respond(third.cookie, true);
    expect([kernel.device('vfio0').responses, kernel.device('vfio1').responses]).toEqual([[0, 0], [1]]);
    host.close();
  });

  test('of a device that leaves have one answer, whether they were read or not', () => {
    const { kernel, host, queue, space, one, other, ask } = start();
    ask('vfio0', 1);
    const [read] = queue.read();
    ask('vfio0', 2);
    ask('vfio1', 3);
    expect(space.detach(one)).toBe(0);
    expect(kernel.device('vfio0').responses).toEqual([1, 1]);
    queue.respond(read.cookie, true);
    const rest = queue.read();
    expect(rest.map(({ address }) => address)).toEqual([0x3000n]);
    queue.respond(rest[0].cookie, true);
    space.detach(other);
    space.close();
    queue.close();
    expect([kernel.device('vfio0').responses, kernel.device('vfio1').responses]).toEqual([[1, 1], [0]]);
    host.close();
  });

  test('that nobody answers are refused when the queue goes', () => {
    const { kernel, host, queue, space, one, other, ask } = start();
    ask('vfio0', 1);
    queue.read();
    ask('vfio1', 2);
    for (const device of [one, other]) space.detach(device);
    space.close();
    queue.close();
    expect([kernel.device('vfio0').responses, kernel.device('vfio1').responses]).toEqual([[1], [1]]);
    host.close();
  });

  test('of one device have numbers of nine bits (PCI Express Base 5.0, 10.4.1)', () => {
    const { host, queue, ask } = start();
    const groups = Array.from({ length: 513 }, () => {
      ask('vfio0', 1);
      const [{ group, cookie }] = queue.read();
      queue.respond(cookie, true);
      return group;
    });
    expect([groups[1] - groups[0], Math.max(...groups), groups[512]]).toEqual([1, 511, groups[0]]);
    host.close();
  });

  test('are read whole, and answered up to the first answer that is none', () => {
    const { kernel, host, queue, ask } = start();
    const [fd, FAULT_BYTES, RESPONSE_BYTES] = [queue.descriptor, 40, 8];
    for (const page of [1, 2]) ask('vfio0', page);
    const memory = kernel.allocate(4096);
    expect(kernel.read(fd, memory, FAULT_BYTES)).toBe(FAULT_BYTES);
    expect(kernel.read(fd, memory, 2 * FAULT_BYTES), 'the other one').toBe(FAULT_BYTES);
    expect(kernel.read(fd, memory, FAULT_BYTES + 1)).toBe(-errno.ESPIPE);
    // Cookie and code; of cookies 1, 9 and 2 the second is nobody's.
    new Uint32Array(memory.buffer).set([1, 0, 9, 0, 2, 0]);
    expect(kernel.write(fd, memory, 3 * RESPONSE_BYTES)).toBe(RESPONSE_BYTES);
    expect(kernel.device('vfio0').responses).toEqual([0]);
    new Uint32Array(memory.buffer).set([9, 0]);
    expect(kernel.write(fd, memory, RESPONSE_BYTES)).toBe(-errno.EINVAL);
    host.close();
  });

  test('of one group are answered by its last; a device that nobody here has is passed over', () => {
    const { kernel, host, queue, one, ask } = start();
    const { read } = kernel;
    /** Records as they are read, which a kernel of ours makes of one page each. */
    const reading = (change: (record: DataView) => void) => {
      kernel.read = (fd, into, bytes) => {
        const result = read.call(kernel, fd, into, bytes);
        if (result > 0) change(new DataView(into.buffer));
        return result;
      };
      return queue.read();
    };
    ask('vfio0', 1);
    const [first] = reading((record) => record.setUint32(0, 0, true));
    expect([first.device, first.last]).toEqual([one, false]);
    queue.respond(first.cookie, true);
    expect(kernel.device('vfio0').responses, 'more pages follow').toEqual([]);
    ask('vfio0', 2);
    expect(reading((record) => record.setUint32(4, 4711, true))).toEqual([]);
    kernel.read = read;
    ask('vfio0', 3);
    const [last] = queue.read();
    queue.respond(last.cookie, true);
    expect([last.last, kernel.device('vfio0').responses]).toEqual([true, [0]]);
    host.close();
  });

  test('go into a queue of the same host', () => {
    const { host } = start();
    const foreign: PageRequestQueue = { descriptor: 3, read: () => [], respond: () => {}, close: () => {} };
    expect(() => host.createSpace({ pageRequests: foreign })).toThrow(new TypeError('pageRequests: the queue is not of this host'));
    host.close();
  });

  test('are refused with what the kernel says where it does not say what the device is', () => {
    const kernel = simKernel();
    const host = new IommufdHost(kernel);
    const device = host.openDevice(kernel.device().path);
    kernel.hooks.fail({ kind: 'IOMMU_GET_HW_INFO', nth: 1, errno: errno.EIO });
    expect(host.pageRequests.refuses(device)).toMatch(/^IOMMU_GET_HW_INFO: EIO/);
    host.close();
  });
});
