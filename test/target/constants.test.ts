import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ_WRITE } from '../../src/memory/access.ts';
import { PAGE_LG2 } from '../../src/memory/address.ts';
import { NO_CONTEXT } from '../../src/memory/iotlb.ts';
import * as amdIommu from '../../src/target/amd/amd-iommu.ts';
import * as amdCommands from '../../src/target/amd/control/command-buffer.ts';
import * as amdPages from '../../src/target/amd/control/page-commands.ts';
import { INVALIDATE_PAGES, OPCODE } from '../../src/target/amd/spec/commands.ts';
import { VERDICT as AMD } from '../../src/target/amd/translation/device-entry.ts';
import * as amd from '../../src/target/amd/translation/translator.ts';
import { type Field, put, reservedMask } from '../../src/target/fields.ts';
import * as riscv from '../../src/target/riscv/riscv-iommu.ts';
import { BY_USER } from '../../src/target/riscv/translation/translator.ts';
import * as smmuv3Pages from '../../src/target/smmuv3/control/page-commands.ts';
import * as smmuv3 from '../../src/target/smmuv3/smmuv3.ts';
import { OP, OPCODE as SMMUV3_OPCODE, TLBI } from '../../src/target/smmuv3/spec/commands.ts';
import * as smmuv3Translator from '../../src/target/smmuv3/translation/translator.ts';
import { MAMV } from '../../src/target/vtd/capabilities.ts';
import * as descriptors from '../../src/target/vtd/control/descriptors.ts';
import * as queue from '../../src/target/vtd/control/invalidation-queue.ts';
import * as pageDescriptors from '../../src/target/vtd/control/page-descriptors.ts';
import { REPEATED as REGISTERS } from '../../src/target/vtd/control/registers.ts';
import * as spec from '../../src/target/vtd/spec/descriptors.ts';
import * as registers from '../../src/target/vtd/spec/registers.ts';
import { FIRST_STAGE } from '../../src/target/vtd/translation/stages.ts';
import * as vtd from '../../src/target/vtd/translation/translator.ts';
import * as vtdIommu from '../../src/target/vtd/vtd-iommu.ts';
import { STATE } from '../../src/target/zpci/function.ts';
import { PAGE_ENTRY } from '../../src/target/zpci/spec/anchor.ts';
import * as zpciTables from '../../src/target/zpci/table-check.ts';
import * as zpci from '../../src/target/zpci/zpci-iommu.ts';

/* Translators repeat constants of other modules, for the compiler folds no others. */

test('AMD: verdicts are those of device entries', () => {
  expect(amd.REPEATED).toEqual({ PASS: AMD.pass, TRANSLATE: AMD.translate, RW: READ_WRITE });
  expect(amdIommu.REPEATED).toEqual({ RW: READ_WRITE });
  expect(amdCommands.REPEATED).toEqual({ INVALIDATE_PAGES_OPCODE: OPCODE.invalidatePages });
});

test('AMD: INVALIDATE_IOMMU_PAGES', () => {
  const { PASID, DOMAIN, OP, S, GN } = INVALIDATE_PAGES;
  const reserved = reservedMask(2, Object.values(INVALIDATE_PAGES));
  expect(amdPages.REPEATED).toEqual({
    RESERVED_0: reserved[0],
    PASID: PASID.mask,
    CHECKED_1: reserved[1] | (OP.mask << OP.shift),
    OPCODE_1: OPCODE.invalidatePages << OP.shift,
    DOMAIN: DOMAIN.mask,
    RESERVED_2: reserved[2],
    S: 1 << S.shift,
    GN: 1 << GN.shift,
    WITHOUT: NO_CONTEXT,
  });
  expect(reserved[3]).toBe(0);
});

test('SMMUv3: accesses', () => {
  expect(smmuv3.REPEATED).toEqual({ RW: READ_WRITE });
  expect(smmuv3Translator.REPEATED).toEqual({ RW: READ_WRITE });
});

test('SMMUv3: TLBI_NH_VA', () => {
  const { NUM, SCALE, VMID, ASID, TTL, TG } = TLBI;
  expect(smmuv3Pages.REPEATED).toEqual({
    OP: OP.mask,
    TLBI_NH_VA: SMMUV3_OPCODE.TLBI_NH_VA,
    NUM_SCALE: (NUM.mask << NUM.shift) | (SCALE.mask << SCALE.shift),
    VMID: VMID.mask,
    ASID_SHIFT: ASID.shift,
    TTL: TTL.mask << TTL.shift,
    TG: TG.mask << TG.shift,
    TG_4K: 1 << TG.shift,
  });
});

test('RISC-V: accesses, and what a user may', () => {
  expect(riscv.REPEATED).toEqual({ RWX: READ_WRITE | EXECUTE, BY_USER });
});

test('zPCI: states and accesses', () => {
  expect(zpci.REPEATED).toEqual({ ENABLED: STATE.enabled, PAGE: PAGE_LG2, RW: READ_WRITE });
  const bitOf = (field: Field) => field.mask << field.shift;
  expect(zpciTables.REPEATED).toEqual({ PAGE_INVALID: bitOf(PAGE_ENTRY.INVALID), PAGE_ZERO: bitOf(PAGE_ENTRY.ZERO) });
});

describe('VT-d', () => {
  test('accesses are those of src/memory/access.ts', () => {
    expect(vtd.REPEATED).toEqual({ SPECIAL: EXECUTE | PRIVILEGED, RW: READ_WRITE });
    expect(vtdIommu.REPEATED).toEqual({ RW: READ_WRITE });
  });

  test('registers are those of spec/registers.ts', () => {
    const { Global, GSTS, FaultStatus, FSTS, InvalidationQueueAddress, IQA, IQH, IQT, QUEUE_OFFSET, RootTable } = registers;
    const words = { GSTS: GSTS / 4, FSTS: FSTS / 4, IQH: IQH / 4, IQT: IQT / 4, IQA: IQA / 4 };
    const { QIE } = Global;
    const { QS, DW } = InvalidationQueueAddress;
    expect(queue.REPEATED).toEqual({ ...words, QIE, IQE_ITE: FaultStatus.IQE | FaultStatus.ITE, QS, DW, QUEUE_OFFSET });
    expect(REGISTERS).toEqual({ TTM: RootTable.TTM });
  });

  test('descriptors are those of spec/descriptors.ts', () => {
    const { TYPE_HIGH, TYPE_LOW, IOTLB_INVALIDATE, PASID_IOTLB_INVALIDATE, RESERVED, Type, Granularity, PasidIotlbGranularity } = spec;
    /** What the lower word of a descriptor has to be, in these bits. */
    const checked = (type: number, fields: { readonly G: Field }) =>
      (TYPE_HIGH.mask << TYPE_HIGH.shift) | TYPE_LOW.mask | (fields.G.mask << fields.G.shift) | (RESERVED[type][0] & 0xffff);
    const pages = (type: number, fields: { readonly G: Field }, granularity: number) => {
      const words = new Int32Array(8);
      put(words, TYPE_HIGH, type >>> 4);
      put(words, TYPE_LOW, type);
      put(words, fields.G, granularity);
      return words[0];
    };
    expect(pageDescriptors.REPEATED.descriptors).toEqual({
      TYPE_LOW: TYPE_LOW.mask,
      IOTLB: Type.iotlb,
      IOTLB_CHECKED: checked(Type.iotlb, IOTLB_INVALIDATE),
      IOTLB_PAGES: pages(Type.iotlb, IOTLB_INVALIDATE, Granularity.selective),
      PASID_IOTLB_CHECKED: checked(Type.pasidIotlb, PASID_IOTLB_INVALIDATE),
      PASID_IOTLB_PAGES: pages(Type.pasidIotlb, PASID_IOTLB_INVALIDATE, PasidIotlbGranularity.page),
    });
    expect(pageDescriptors.REPEATED.fields).toEqual({
      PASID_BITS: 32 - Math.clz32(PASID_IOTLB_INVALIDATE.PASID.mask),
      DID_SHIFT: IOTLB_INVALIDATE.DID.shift,
      AM_MASK: IOTLB_INVALIDATE.AM.mask,
      ADDRESS_RESERVED: RESERVED[Type.iotlb][2],
      MAMV,
    });
    expect(pageDescriptors.REPEATED.tags).toEqual({ FIRST_STAGE, WITHOUT: NO_CONTEXT });
    // Both have the rest alike: what is reserved in the upper word is all, or all above the PASID.
    expect(PASID_IOTLB_INVALIDATE).toMatchObject({ DID: IOTLB_INVALIDATE.DID, AM: IOTLB_INVALIDATE.AM });
    expect(RESERVED[Type.pasidIotlb].slice(1)).toEqual(Int32Array.of(-1 << 20, RESERVED[Type.iotlb][2], 0, -1, -1, -1, -1));
    expect(RESERVED[Type.iotlb].slice(1)).toEqual(Int32Array.of(-1, RESERVED[Type.iotlb][2], 0, -1, -1, -1, -1));
    expect(descriptors.REPEATED).toEqual({
      TYPE_HIGH_SHIFT: TYPE_HIGH.shift - 4,
      TYPE_HIGH_MASK: TYPE_HIGH.mask << 4,
      TYPE_LOW_MASK: TYPE_LOW.mask,
      G_SHIFT: IOTLB_INVALIDATE.G.shift,
      G_MASK: IOTLB_INVALIDATE.G.mask,
      DID_SHIFT: IOTLB_INVALIDATE.DID.shift,
      PASID_MASK: PASID_IOTLB_INVALIDATE.PASID.mask,
      AM_MASK: IOTLB_INVALIDATE.AM.mask,
    });
  });
});
