import { beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { IommufdHost, IommufdSpace } from '../../src/host/iommufd/index.ts';
import type { PortMemory } from '../../src/host/port.ts';
import type { SimKernel } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import type { MockDevice } from './iommufd-objects.ts';
import { selftestFixture } from './iommufd-objects-fixture.ts';
import { simKernelWithMock } from './mock/index.ts';
import { SELFTEST } from './mock/types.ts';

/** Descriptors of queues, read and written in sizes and to places of which the driver knows better: drivers/iommu/iommufd/eventq.c. */
describe('descriptors of event queues', () => {
  const PAGE = 4096;

  let kernel: SimKernel;
  let host: IommufdHost;
  let space: IommufdSpace;
  let device: MockDevice;
  let memory: PortMemory;

  beforeEach(() => {
    kernel = simKernelWithMock();
    const fixture = selftestFixture(kernel);
    host = fixture.host;
    memory = kernel.allocate(PAGE);
    space = host.createSpace();
    device = fixture.addDevice(space);
    expect(space.map(SELFTEST.base >>> 12, pfnOf(memory.address), 1, READ_WRITE)).toBe(0);
  });

  /** The last bytes of memory. */
  const atEnd = (bytes: number): PortMemory => ({ ...memory, address: memory.address + BigInt(PAGE - bytes), bytes });
  const word = (at: number) => new DataView(memory.buffer).getUint32(at, true);

  describe('page requests', () => {
    const RECORD = 40;

    function asked() {
      const faults = host.createFaultQueue();
      expect(device.replace(host.createPageTable(device, space, { faults }))).toBe(0);
      for (const address of [0x1000n, 0x2000n]) device.pageFault(address, READ);
      return faults.fd;
    }

    test('are read whole, and what there was no room for is there still', () => {
      const fd = asked();
      expect([kernel.read(fd, memory, RECORD - 1), kernel.read(fd, memory, 0)]).toEqual([-errno.ESPIPE, -errno.EINVAL]);
      expect(kernel.read(fd, memory, RECORD)).toBe(RECORD);
      expect(word(24)).toBe(0x1000);
      expect(kernel.read(fd, memory, 2 * RECORD)).toBe(RECORD);
      expect(word(24)).toBe(0x2000);
      expect([kernel.read(fd, memory, RECORD), kernel.read(fd, memory, 0)], 'nothing waits').toEqual([0, 0]);
    });

    test('that cannot be told are not lost, and have no cookie', () => {
      const fd = asked();
      expect(kernel.read(fd, atEnd(RECORD - 1), RECORD)).toBe(-errno.EFAULT);
      expect(kernel.read(fd, atEnd(2 * RECORD - 1), 2 * RECORD), 'the first').toBe(RECORD);
      expect(kernel.read(fd, memory, RECORD)).toBe(RECORD);
      expect([word(24), word(36)]).toEqual([0x2000, 2]);
    });

    test('are answered up to an answer that is wrong', () => {
      const fd = asked();
      expect(kernel.read(fd, memory, 2 * RECORD)).toBe(2 * RECORD);
      const answer = (...words: readonly number[]) => {
        new Uint32Array(memory.buffer).set(words);
        return kernel.write(fd, memory, 4 * words.length);
      };
      expect(answer(1)).toBe(-errno.ESPIPE);
      expect(answer(3, 0)).toBe(-errno.EINVAL);
      expect(answer(1, 2), 'no such code').toBe(-errno.EINVAL);
      expect(answer(1, 0, 3, 0), 'the first').toBe(8);
      expect(answer(1, 0), 'answered').toBe(-errno.EINVAL);
      expect(kernel.write(fd, atEnd(4), 8)).toBe(-errno.EFAULT);
      expect(answer(2, 1)).toBe(8);
    });
  });

  describe('events', () => {
    const HEADER = 8;
    const RECORD = HEADER + 4;

    function reported(depth = 3) {
      const viommu = host.createViommu(device, host.createPageTable(device, space, { nestParent: true }), SELFTEST.viommu);
      viommu.addDevice(device, 0x99n);
      const data = { type: SELFTEST.hwptData, bytes: new Uint8Array(8) };
      expect(device.replace(host.createStageOne(device, viommu, data))).toBe(0);
      const { fd } = viommu.createEventQueue(SELFTEST.veventq, 4, depth);
      for (let round = 0; round < 3; round++) device.event();
      return fd;
    }

    test('are read whole, and what there was no room for is there still', () => {
      const fd = reported();
      expect([HEADER - 1, HEADER, RECORD - 1].map((bytes) => kernel.read(fd, memory, bytes))).toEqual([
        -errno.EINVAL,
        -errno.EINVAL,
        -errno.EINVAL,
      ]);
      expect(kernel.read(fd, memory, RECORD + HEADER - 1), 'no room for a header').toBe(RECORD);
      expect([word(4), word(8)]).toEqual([0, 0x99]);
      expect(kernel.read(fd, memory, 2 * RECORD - 1), 'no room for the record').toBe(RECORD);
      expect(word(4)).toBe(1);
      expect(kernel.read(fd, memory, PAGE)).toBe(RECORD);
      expect([word(4), kernel.read(fd, memory, PAGE)]).toEqual([2, 0]);
    });

    test('that cannot be told are not lost', () => {
      const fd = reported();
      expect([HEADER - 1, HEADER].map((bytes) => kernel.read(fd, atEnd(bytes), RECORD))).toEqual([-errno.EFAULT, -errno.EFAULT]);
      expect([RECORD + HEADER - 1, RECORD + HEADER].map((bytes) => kernel.read(fd, atEnd(bytes), 2 * RECORD))).toEqual([RECORD, RECORD]);
      expect([kernel.read(fd, memory, PAGE), word(4)]).toEqual([RECORD, 2]);
    });

    test('that were lost are a header alone', () => {
      const fd = reported(1);
      expect(kernel.read(fd, memory, RECORD + HEADER)).toBe(RECORD + HEADER);
      expect([word(RECORD), word(RECORD + 4)]).toEqual([1, 2]);
    });

    test('are not answered', () => {
      expect(kernel.write(reported(), memory, 8)).toBe(-errno.EINVAL);
    });
  });
});
