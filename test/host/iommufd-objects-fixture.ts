import { errnoName } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import type { Port, PortMemory } from '../../src/host/port.ts';
import { WRITE } from '../../src/memory/access.ts';
import type { MockDevice, ObjectsFixture } from './iommufd-objects.ts';
import { IOMMU_TEST_CMD } from './mock/types.ts';

/** The mock of the kernel's selftests: drivers/iommu/iommufd/iommufd_test.h, struct iommu_test_cmd. */

const BYTES = 72;
export const OP = {
  mockDomainReplace: 10,
  mockDomainFlags: 12,
  dirty: 13,
  checkIotlb: 14,
  triggerIopf: 15,
  checkCache: 16,
  triggerVevent: 17,
  pasidAttach: 18,
  pasidReplace: 19,
  pasidDetach: 20,
} as const;
const FLAG_PASID = 4;
const PERMISSION_READ = 1;
const PERMISSION_WRITE = 2;
/** A page of the mock, which is half of one of the machine's. */
const MOCK_PAGE = 2048n;

/** 32-bit fields as numbers, 64-bit ones as bigints, from byte 16 on. */
export function testCommand(
  port: Port,
  struct: PortMemory,
  fd: number,
  op: number,
  id: number,
  ...fields: readonly (number | bigint)[]
): number {
  const view = new DataView(struct.buffer);
  new Uint8Array(struct.buffer).fill(0);
  view.setUint32(0, BYTES, true);
  view.setUint32(4, op, true);
  view.setUint32(8, id, true);
  let at = 16;
  for (const field of fields) {
    if (typeof field === 'bigint') {
      at = Math.ceil(at / 8) * 8;
      view.setBigUint64(at, field, true);
      at += 8;
    } else {
      view.setUint32(at, field, true);
      at += 4;
    }
  }
  return port.ioctl(fd, IOMMU_TEST_CMD, struct);
}

export function must(result: number, what: string): void {
  if (result < 0) throw new Error(`${what}: ${errnoName(result)}`);
}

/** The mock of whatever kernel the port is of. */
export function selftestFixture(port: Port): ObjectsFixture {
  const struct = port.allocate(4096);
  const view = new DataView(struct.buffer);
  const host = new IommufdHost(port);
  const { fd } = host;
  const command = (op: number, id: number, ...fields: readonly (number | bigint)[]) => testCommand(port, struct, fd, op, id, ...fields);
  /** The mock's handle of a device, by the kernel's. */
  const mocks = new Map<number, number>();
  const attached = new Set<string>();
  return {
    port,
    host,
    addDevice(space) {
      must(command(OP.mockDomainFlags, space.id, 0, 0, 0, FLAG_PASID), 'MOCK_DOMAIN_FLAGS');
      const [mock, , id] = [16, 20, 24].map((offset) => view.getUint32(offset, true));
      mocks.set(id, mock);
      const device: MockDevice = {
        id,
        replace: (to) => command(OP.mockDomainReplace, mock, to.id),
        attachPasid(pasid, to) {
          const key = `${id} ${pasid}`;
          const result = command(attached.has(key) ? OP.pasidReplace : OP.pasidAttach, mock, pasid, to.id);
          if (result === 0) attached.add(key);
          return result;
        },
        detachPasid(pasid) {
          attached.delete(`${id} ${pasid}`);
          return command(OP.pasidDetach, mock, pasid);
        },
        pageFault(address, access) {
          const permission = (access & WRITE) !== 0 ? PERMISSION_WRITE : PERMISSION_READ;
          must(command(OP.triggerIopf, 0, id, 0, 1, permission, address), 'TRIGGER_IOPF');
        },
        event: () => void command(OP.triggerVevent, 0, id),
      };
      return device;
    },
    iotlb: (stage, index, value) => command(OP.checkIotlb, stage.id, index, value) === 0,
    cache: (device, _virtualId, index, value) => command(OP.checkCache, device.id, index, value) === 0,
    write(_device, table, page) {
      const bitmap = port.allocate(8);
      new DataView(bitmap.buffer).setBigUint64(0, 1n, true);
      const iova = BigInt(page) << 12n;
      must(command(OP.dirty, table.id, 0, iova, MOCK_PAGE, MOCK_PAGE, bitmap.address, 0n), 'DIRTY');
      bitmap.release();
    },
    close() {
      // The mock's own objects hold the devices; they go first, as the kernel's selftests have it.
      host.close();
      mocks.clear();
      struct.release();
    },
  };
}
