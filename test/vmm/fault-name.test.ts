import { expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { MEM_FAULT } from '../../src/memory/guest-memory.ts';
import { type FaultKind, faultCode, faultKind, faultLevel } from '../../src/pagetable/page-table.ts';
import * as amd from '../../src/target/amd/index.ts';
import { FAULT_BASE, type FaultSource, targetFault } from '../../src/target/fault-codes.ts';
import { Cause } from '../../src/target/riscv/index.ts';
import * as smmuv3 from '../../src/target/smmuv3/index.ts';
import * as spapr from '../../src/target/spapr/index.ts';
import * as virtio from '../../src/target/virtio-iommu/index.ts';
import { FAULT_PROTECTED, Fault } from '../../src/target/vtd/index.ts';
import * as zpci from '../../src/target/zpci/index.ts';
import { faultName, faultNumber, faultSource } from '../../src/vmm/fault-name.ts';

const all = (source: FaultSource, numbers: readonly number[]) => numbers.map((number) => targetFault(source, number));

const families: Readonly<Record<string, readonly number[]>> = {
  errno: Array.from({ length: 4095 }, (_, i) => -1 - i),
  memory: [MEM_FAULT],
  walk: [1, 2, 3, 4, 5, 6, 7].flatMap((kind) => Array.from({ length: 16 }, (_, level) => faultCode(kind as FaultKind, level))),
  spapr: [spapr.FAULT_ENDPOINT, spapr.FAULT_EXTENT, spapr.FAULT_PAGE, spapr.FAULT_PERMISSION],
  'virtio-iommu': all('virtio-iommu', [virtio.FAULT_R_UNKNOWN, virtio.FAULT_R_DOMAIN, virtio.FAULT_R_MAPPING]),
  vtd: [...all('vtd', Object.values(Fault)), FAULT_PROTECTED],
  amd: [...all('amd', Object.values(amd.EVENT)), amd.FAULT_ENDPOINT],
  zpci: [...all('zpci', Object.values(zpci.PEC)), zpci.FAULT_ENDPOINT, zpci.FAULT_BLOCKED],
  smmuv3: [...all('smmuv3', Object.values(smmuv3.EVENT)), smmuv3.FAULT_ABORT, smmuv3.FAULT_RAZ_WI, smmuv3.FAULT_STALLED],
  riscv: all('riscv', Object.values(Cause)),
};

test('no two kinds of answers share a number', () => {
  const whose = new Map<number, string>();
  for (const [family, codes] of Object.entries(families)) {
    for (const code of codes) {
      expect(code, family).toBeLessThan(0);
      expect(whose.get(code), `${family} ${code}`).toBeUndefined();
      whose.set(code, family);
    }
  }
});

test('a walk of tables packs its kind and level whatever the range begins with', () => {
  for (const kind of [1, 7] as const)
    for (const level of [0, 5, 15]) expect([faultKind(faultCode(kind, level)), faultLevel(faultCode(kind, level))]).toEqual([kind, level]);
});

test('every fault has the name of its specification, its source and its number', () => {
  expect(faultName(targetFault('vtd', Fault['LGN.2']))).toBe('vtd LGN.2');
  expect(faultName(targetFault('riscv', 258))).toBe('riscv ddtNotValid');
  expect(faultName(spapr.FAULT_ENDPOINT)).toBe('spapr FAULT_ENDPOINT');
  expect(faultName(targetFault('virtio-iommu', virtio.FAULT_R_UNKNOWN))).toBe('virtio-iommu UNKNOWN');
  expect(faultName(targetFault('vtd', 0xfff))).toBe('vtd 0xfff');
  expect(faultName(MEM_FAULT)).toBe('MEM_FAULT');
  expect(faultName(-errno.EINVAL)).toBe('EINVAL');
  expect(faultName(12)).toBe('no fault: 12');
  for (const source of Object.keys(FAULT_BASE) as FaultSource[]) {
    for (const number of [0, 1, 0xffff])
      expect([faultSource(targetFault(source, number)), faultNumber(targetFault(source, number))]).toEqual([source, number]);
    for (const code of families[source]) expect(faultName(code)).toMatch(new RegExp(`^${source} [A-Za-z]`));
  }
  for (const code of [MEM_FAULT, -1, -4095, 0, 12]) expect([faultSource(code), faultNumber(code)]).toEqual([null, null]);
});
