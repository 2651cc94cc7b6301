import { test } from '@fast-check/vitest';
import fc from 'fast-check';
import { expect } from 'vitest';
import { errnoName } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import { amd, type IommuConfig, type SimKernel, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import * as structs from '../../src/host/sim/iommufd/structs.ts';
import type { Fields, Struct } from '../../src/host/sim/structs.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { reaching } from '../reaching.ts';

/**
 * Any bytes to any ioctl: the simulated kernel answers 0 or an errno that Linux has, never throws, and everything is gone when
 * the descriptors are closed.
 */

const machines: IommuConfig[] = [
  {},
  { nesting: vtd(), dirtyTracking: true, pasidLog2: 20 },
  { nesting: smmuv3({ tegra241: {} }), pasidLog2: 20 },
  { nesting: amd(), aperture: { first: 0n, last: 0xffff_ffff_ffff_ffffn } },
];

const layouts: readonly [keyof typeof ioctl, Struct<Fields>][] = [
  ['IOMMU_DESTROY', structs.iommuDestroy],
  ['IOMMU_IOAS_ALLOC', structs.iommuIoasAlloc],
  ['IOMMU_IOAS_ALLOW_IOVAS', structs.iommuIoasAllowIovas],
  ['IOMMU_IOAS_COPY', structs.iommuIoasCopy],
  ['IOMMU_IOAS_IOVA_RANGES', structs.iommuIoasIovaRanges],
  ['IOMMU_IOAS_MAP', structs.iommuIoasMap],
  ['IOMMU_IOAS_UNMAP', structs.iommuIoasUnmap],
  ['IOMMU_OPTION', structs.iommuOption],
  ['IOMMU_VFIO_IOAS', structs.iommuVfioIoas],
  ['IOMMU_HWPT_ALLOC', structs.iommuHwptAlloc],
  ['IOMMU_GET_HW_INFO', structs.iommuHwInfo],
  ['IOMMU_HWPT_SET_DIRTY_TRACKING', structs.iommuHwptSetDirtyTracking],
  ['IOMMU_HWPT_GET_DIRTY_BITMAP', structs.iommuHwptGetDirtyBitmap],
  ['IOMMU_HWPT_INVALIDATE', structs.iommuHwptInvalidate],
  ['IOMMU_FAULT_QUEUE_ALLOC', structs.iommuFaultAlloc],
  ['IOMMU_IOAS_MAP_FILE', structs.iommuIoasMapFile],
  ['IOMMU_VIOMMU_ALLOC', structs.iommuViommuAlloc],
  ['IOMMU_VDEVICE_ALLOC', structs.iommuVdeviceAlloc],
  ['IOMMU_IOAS_CHANGE_PROCESS', structs.iommuIoasChangeProcess],
  ['IOMMU_VEVENTQ_ALLOC', structs.iommuVeventqAlloc],
  ['IOMMU_HW_QUEUE_ALLOC', structs.iommuHwQueueAlloc],
  ['VFIO_DEVICE_ATTACH_IOMMUFD_PT', structs.vfioAttach],
  ['VFIO_DEVICE_DETACH_IOMMUFD_PT', structs.vfioDetach],
];

/** An address of memory that the process has. */
const POINTER = -1n;
/** Descriptors of a file, and none. What holds the iommufd, and is mapped in it, would outlive both, as on Linux. */
const FILE = 3;
const NO_FILE = 1000;
const small = fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 6, arbitrary: fc.integer({ min: 1, max: 7 }) });
/** IDs, flags and addresses as they are likely to mean something, and anything else. */
function value(name: string, type: string): fc.Arbitrary<number | bigint> {
  const rare = { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }) };
  if (name === 'flags')
    return fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 4, arbitrary: fc.nat(15) }, { weight: 1, arbitrary: fc.integer() });
  if (name === 'fd') return fc.constantFrom(FILE, FILE, FILE, NO_FILE, -1);
  if (name.startsWith('reserved')) return fc.oneof({ weight: 20, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constant(1) });
  if (/_(va|uptr|iovas)$|^data$/.test(name)) return fc.oneof({ weight: 8, arbitrary: fc.constant(POINTER) }, rare);
  if (type === 'u64') return fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 8 }).map((pages) => BigInt(pages) << 12n) }, rare);
  return fc.oneof({ weight: 12, arbitrary: small }, { weight: 1, arbitrary: fc.integer() });
}

const call = fc.constantFrom(...layouts).chain(([request, { bytes, fields }]) =>
  fc.record({
    request: fc.constant(request),
    values: fc.tuple(...Object.entries(fields).map(([name, type]) => value(name, type).map((of) => [type, of] as const))),
    size: fc.oneof({ weight: 20, arbitrary: fc.constant(bytes) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 4096 }) }),
  }),
);

const fieldBytes: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, s32: 4, u64: 8 };

/** Objects with the first IDs, so that a number below 8 is likely to be one: device, IOAS, page tables, vIOMMU, fault queue. */
function prepare(kernel: SimKernel, pfn: number): { readonly fd: number; readonly device: number } {
  const host = new IommufdHost(kernel);
  const device = host.openDevice(kernel.device().path);
  const space = host.createSpace();
  space.map(1, pfn, 8, READ_WRITE);
  const { nesting, dirtyTracking } = kernel.iommus[0].config;
  const parent = nesting === null ? null : host.createPageTable(device, space, { nestParent: true });
  host.createPageTable(device, space, { dirtyTracking });
  if (parent !== null && nesting?.virtual !== undefined) host.createViommu(device, parent, 1);
  host.createFaultQueue();
  host.createSpace();
  return { fd: host.fd, device: device.fd };
}

/** Writes the struct, whose first field is its size. */
function write(view: DataView, size: number, values: readonly (readonly [string, number | bigint])[], pointer: bigint): void {
  let at = 0;
  for (const [type, of] of values) {
    const bits = BigInt.asUintN(64, of === POINTER ? pointer : BigInt(of));
    for (let byte = 0; byte < fieldBytes[type]; byte++) view.setUint8(at + byte, Number((bits >> BigInt(8 * byte)) & 0xffn));
    at += fieldBytes[type];
  }
  view.setUint32(0, size, true);
}

const taken = reaching('any bytes', 'a call that is done', 'a call that is refused');

test.prop([fc.constantFrom(...machines), fc.array(call, { minLength: 20, maxLength: 100 })], { numRuns: 100 })(
  'the simulated kernel takes any bytes',
  (config, calls) => {
    taken();
    const kernel = simKernel({ iommus: [config] });
    const struct = kernel.allocate(4096);
    const memory = kernel.allocate(0x1_0000);
    const view = new DataView(struct.buffer);
    kernel.createFile('/dev/shm/ram', 0x1_0000);
    expect(kernel.open('/dev/shm/ram')).toBe(FILE);
    const { fd, device } = prepare(kernel, pfnOf(memory.address));
    for (const { request, values, size } of calls) {
      new Uint8Array(struct.buffer).fill(0);
      write(view, size, values, memory.address);
      const result = kernel.ioctl(request.startsWith('VFIO_DEVICE') ? device : fd, ioctl[request], struct);
      taken(result === 0 ? 'a call that is done' : 'a call that is refused');
      if (result !== 0) expect(errnoName(result), `${request}: ${result}`).toMatch(/^E/);
      const sim = kernel.device();
      sim.dmaWrite(BigInt(size) << 10n, Uint8Array.of(1, 2, 3));
    }
    kernel.reset();
    const { descriptors, pinnedBytes, domains, groupsOwned } = kernel.live();
    expect([descriptors, pinnedBytes, domains, groupsOwned]).toEqual([0, 0, 0, 0]);
  },
);
