import {
  MAP_F_READ,
  MAP_F_WRITE,
  T_ATTACH,
  T_DETACH,
  T_MAP,
  T_PROBE,
  T_UNMAP,
  TAIL_BYTES,
} from '../../../src/target/virtio-iommu/spec/requests.ts';
import type { Buffer } from '../../virtqueue/driver.ts';

/* Requests as the driver lays them out (5.13.6.3 to 5.13.6.7). */

function request(type: number, bytes: number, fill: (view: DataView) => void, writable = TAIL_BYTES): Buffer {
  const readable = new Uint8Array(bytes);
  const view = new DataView(readable.buffer);
  view.setUint8(0, type);
  fill(view);
  return { readable, writable };
}

export function attach(domain: number, endpoint: number, flags = 0, reserved = 0): Buffer {
  return request(T_ATTACH, 20, (view) => {
    view.setUint32(4, domain, true);
    view.setUint32(8, endpoint, true);
    view.setUint32(12, flags, true);
    view.setUint32(16, reserved, true);
  });
}

export function detach(domain: number, endpoint: number, reserved = 0): Buffer {
  return request(T_DETACH, 20, (view) => {
    view.setUint32(4, domain, true);
    view.setUint32(8, endpoint, true);
    view.setUint32(12, reserved, true);
  });
}

export function map(domain: number, start: bigint, end: bigint, phys: bigint, flags = MAP_F_READ | MAP_F_WRITE): Buffer {
  return request(T_MAP, 36, (view) => {
    view.setUint32(4, domain, true);
    view.setBigUint64(8, start, true);
    view.setBigUint64(16, end, true);
    view.setBigUint64(24, phys, true);
    view.setUint32(32, flags, true);
  });
}

export function unmap(domain: number, start: bigint, end: bigint, reserved = 0): Buffer {
  return request(T_UNMAP, 28, (view) => {
    view.setUint32(4, domain, true);
    view.setBigUint64(8, start, true);
    view.setBigUint64(16, end, true);
    view.setUint32(24, reserved, true);
  });
}

export function probe(endpoint: number, properties = 512): Buffer {
  return request(T_PROBE, 72, (view) => view.setUint32(4, endpoint, true), properties + TAIL_BYTES);
}
