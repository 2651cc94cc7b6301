import { expect, test } from 'vitest';
import { MMIO, READ_WRITE } from '../../../src/memory/access.ts';
import { PFN_LIMIT } from '../../../src/memory/address.ts';
import { REPEATED as OF_QUEUE } from '../../../src/target/virtio-iommu/request-queue.ts';
import { REPEATED } from '../../../src/target/virtio-iommu/requests.ts';
import { BYPASS_OFFSET, CONFIG, CONFIG_BYTES } from '../../../src/target/virtio-iommu/spec/config.ts';
import { FAULT, FAULT_BYTES } from '../../../src/target/virtio-iommu/spec/fault.ts';
import { RESV_MEM, RESV_MEM_BYTES } from '../../../src/target/virtio-iommu/spec/properties.ts';
import {
  ATTACH,
  ATTACH_BYTES,
  DETACH,
  DETACH_BYTES,
  HEAD,
  HEAD_BYTES,
  MAP,
  MAP_BYTES,
  MAP_F_MMIO,
  MAP_F_READ,
  MAP_F_WRITE,
  PROBE,
  PROBE_BYTES,
  REQUEST_BYTES,
  S_OK,
  T_MAP,
  T_PROBE,
  T_UNMAP,
  TAIL,
  TAIL_BYTES,
  UNMAP,
  UNMAP_BYTES,
} from '../../../src/target/virtio-iommu/spec/requests.ts';
import { S_NONE } from '../../../src/target/virtio-iommu/status.ts';

test('the constants that requests.ts repeats are those of spec/requests.ts', () => {
  const words = (fields: Record<string, { word: number; shift: number; mask: number }>, ...names: string[]) =>
    names.map((name) => {
      expect([name, fields[name].shift, fields[name].mask]).toEqual([name, 0, -1]);
      return fields[name].word;
    });
  const range = ['DOMAIN', 'VIRT_START_LO', 'VIRT_START_HI', 'VIRT_END_LO', 'VIRT_END_HI'];
  const { DOMAIN, START_LO, START_HI, END_LO, END_HI, PHYS_LO, PHYS_HI, FLAGS, UNMAP_RESERVED } = REPEATED;
  const repeated = [DOMAIN, START_LO, START_HI, END_LO, END_HI];
  expect([...repeated, PHYS_LO, PHYS_HI, FLAGS]).toEqual(words(MAP, ...range, 'PHYS_START_LO', 'PHYS_START_HI', 'FLAGS'));
  expect([...repeated, UNMAP_RESERVED]).toEqual(words(UNMAP, ...range, 'RESERVED'));
  expect(REPEATED).toMatchObject({ TYPE_MASK: HEAD.TYPE.mask << HEAD.TYPE.shift, T_MAP, T_UNMAP, MAP_BYTES, UNMAP_BYTES });
  expect(REPEATED).toMatchObject({ READ_AND_WRITE: MAP_F_READ | MAP_F_WRITE, F_MMIO: MAP_F_MMIO });
  expect(REPEATED).toMatchObject({ DONE: S_OK, PAGES_END: PFN_LIMIT, TO_REGISTERS: MMIO });
});

test('the constants that request-queue.ts repeats are those of spec/requests.ts and status.ts; a status is the tail’s low byte', () => {
  expect(OF_QUEUE).toEqual({
    REQUEST_SIZE: REQUEST_BYTES,
    HEAD_SIZE: HEAD_BYTES,
    TAIL_SIZE: TAIL_BYTES,
    TYPE_MASK: HEAD.TYPE.mask << HEAD.TYPE.shift,
    PROBE_TYPE: T_PROBE,
    UNANSWERED: S_NONE,
  });
  expect(TAIL.STATUS).toMatchObject({ word: 0, shift: 0 });
});

test('the READ and WRITE of MAP are the library’s', () => {
  expect(MAP_F_READ | MAP_F_WRITE).toBe(READ_WRITE);
});

test.each([
  ['virtio_iommu_req_head', HEAD, 1],
  ['virtio_iommu_req_tail', TAIL, TAIL_BYTES - 3],
  ['virtio_iommu_req_attach', ATTACH, ATTACH_BYTES],
  ['virtio_iommu_req_detach', DETACH, DETACH_BYTES - 8],
  ['virtio_iommu_req_map', MAP, MAP_BYTES],
  ['virtio_iommu_req_unmap', UNMAP, UNMAP_BYTES],
  ['virtio_iommu_req_probe', PROBE, PROBE_BYTES - 64],
  ['virtio_iommu_probe_resv_mem', RESV_MEM, RESV_MEM_BYTES],
  ['virtio_iommu_fault', FAULT, FAULT_BYTES],
  ['virtio_iommu_config', CONFIG, CONFIG_BYTES - 3],
])('struct %s: fields do not overlap and end where it ends', (_, structure, bytes) => {
  const taken = new Map<number, string>();
  for (const [name, { word, shift, mask }] of Object.entries(structure as Record<string, { word: number; shift: number; mask: number }>))
    for (let bit = 0; bit < 32; bit++) {
      if (((mask << shift) & (1 << bit)) === 0) continue;
      expect([name, taken.get(32 * word + bit)]).toEqual([name, undefined]);
      taken.set(32 * word + bit, name);
    }
  expect(Math.ceil((Math.max(...taken.keys()) + 1) / 8)).toBe(bytes);
});

test('requests are as long as the longest, `bypass` lies where its offset says', () => {
  expect(REQUEST_BYTES).toBe(Math.max(ATTACH_BYTES, DETACH_BYTES, MAP_BYTES, UNMAP_BYTES, PROBE_BYTES));
  expect(8 * BYPASS_OFFSET).toBe(32 * CONFIG.BYPASS.word + CONFIG.BYPASS.shift);
});
