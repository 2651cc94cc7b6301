import { errno } from '../../src/host/errno.ts';
import type { Host, HostDevice, HostSpace } from '../../src/host/host.ts';
import { PFN_LIMIT } from '../../src/memory/address.ts';

/** A host that does nothing but count: what is measured over it is viommu's own cost. */
export function countingHost(): Host {
  const calls = { map: 0, unmap: 0, copy: 0, attach: 0, control: 0 };
  const createSpace = (): HostSpace => ({
    granuleLg2: 12,
    mappingLimit: Number.POSITIVE_INFINITY,
    error: null,
    dirty: null,
    trackDirty: () => -errno.EOPNOTSUPP,
    apertures: () => [{ first: 0, last: PFN_LIMIT - 1 }],
    cover: () => 0,
    map() {
      calls.map++;
      return 0;
    },
    unmap() {
      calls.unmap++;
      return 0;
    },
    copy() {
      calls.copy++;
      return 0;
    },
    attach(device) {
      calls.attach++;
      (device as { attachment: object | null }).attachment = this;
      return 0;
    },
    detach(device) {
      calls.attach++;
      (device as { attachment: object | null }).attachment = null;
      return 0;
    },
    close() {},
    [Symbol.dispose]() {},
  });
  const openDevice = (name: string): HostDevice => ({
    name,
    iommuGroup: null,
    attachment: null,
    closed: false,
    detach() {
      (this as { attachment: object | null }).attachment = null;
      return 0;
    },
    close: () => null,
    [Symbol.dispose]() {},
  });
  return {
    kind: 'counting',
    capabilities: { replace: false, copy: false },
    calls,
    openDevice,
    reach: (_device, wanted) => wanted,
    lacksWriteOnly: () => null,
    refusesDirtyTracking: () => 'it only counts',
    createSpace,
    close() {},
    [Symbol.dispose]() {},
  };
}
