import { READ, WRITE } from '../../../memory/access.ts';
import { pfnOf } from '../../../memory/address.ts';
import { requireObject } from '../../../memory/arguments.ts';
import { X86Table } from '../../../pagetable/x86.ts';
import { errno } from '../../errno.ts';
import type { PhysicalMemory } from '../memory.ts';
import { Struct, type UserBuffer } from '../structs.ts';
import { DMA_BLOCKED, type ParentStage } from '../translation.ts';
import { type NestedDomain, type NestingModel, StageOneCache, type Tables, tablesOver } from './model.ts';
import { userStruct } from './user-struct.ts';

/** Intel VT-d in scalable mode: nested translation, VT-d 4.1 section 3.8. */

const INFO_VTD = 1;
const DATA_VTD_S1 = 1;
const INVALIDATE_VTD_S1 = 0;

/** Pages of the interrupt address range, which requests without a PASID do not reach memory by (3.14). */
const INTERRUPTS = { first: 0xfee00, last: 0xfeeff } as const;

/** enum iommu_hwpt_vtd_s1_flags */
const SRE = 1n;
const EAFE = 2n;
const WPE = 4n;
const INVALIDATE_LEAF = 1;

/** enum iommu_hw_info_vtd_flags */
const ERRATUM_772415 = 1;
/** struct iommu_hw_info_vtd */
const hwInfoVtd = new Struct({ flags: 'u32', reserved: 'u32', cap_reg: 'u64', ecap_reg: 'u64' });
/** struct iommu_hwpt_vtd_s1 */
const hwptVtdS1 = new Struct({ flags: 'u64', pgtbl_addr: 'u64', addr_width: 'u32', reserved: 'u32' });
type VtdS1 = ReturnType<typeof hwptVtdS1.decode>;
/** struct iommu_hwpt_vtd_s1_invalidate */
const vtdS1Invalidate = new Struct({ addr: 'u64', npages: 'u64', flags: 'u32', reserved: 'u32' });

/** Extended capabilities (VT-d 4.1, 11.4.3): scalable mode, first and second stage, nesting, PASID, supervisor requests, extended access. */
const ECAP_SMTS = 1n << 43n;
const ECAP_SSTS = 1n << 46n;
const ECAP_FSTS = 1n << 47n;
const ECAP_NEST = 1n << 26n;
const ECAP_PASID = 1n << 40n;
const ECAP_SRS = 1n << 31n;
const ECAP_EAFS = 1n << 34n;
/** Capabilities (11.4.2): first-stage 5-level paging, and 1 GiB pages of the first stage. */
const CAP_FS5LP = 1n << 60n;
const CAP_FS1GP = 1n << 56n;

export interface VtdConfig {
  /** Default: 5 levels and 1 GiB pages. */
  readonly cap?: bigint;
  readonly ecap?: bigint;
  /** It says that it has erratum 772415: no pages for reading only under a first stage. Default false. */
  readonly erratum772415?: boolean;
}

export function vtd(config: VtdConfig = {}): NestingModel {
  requireObject('vtd', 'config', config);
  const cap = config.cap ?? CAP_FS5LP | CAP_FS1GP;
  const ecap = config.ecap ?? ECAP_SMTS | ECAP_SSTS | ECAP_FSTS | ECAP_NEST | ECAP_PASID | ECAP_SRS | ECAP_EAFS;
  return {
    infoType: INFO_VTD,
    pasidTables: true,
    blocksFirst: true,
    info(type) {
      if (type !== 0 && type !== INFO_VTD) return null;
      const data = new Uint8Array(hwInfoVtd.bytes);
      hwInfoVtd.encode(data, { flags: config.erratum772415 === true ? ERRATUM_772415 : 0, cap_reg: cap, ecap_reg: ecap });
      return data;
    },
    nestParent: (ecap & ECAP_NEST) !== 0n,
    nest(parent, physical, type, data) {
      if (type !== DATA_VTD_S1) return -errno.EOPNOTSUPP;
      const stage = userStruct(hwptVtdS1, 'reserved', data);
      return typeof stage === 'number' ? stage : new VtdStageOne(parent, physical, stage, cap, ecap);
    },
  };
}

class VtdStageOne implements NestedDomain {
  readonly parent: ParentStage;
  readonly #config: VtdS1;
  readonly #cap: bigint;
  readonly #ecap: bigint;
  readonly #tables: Tables;
  readonly #cache = new StageOneCache();
  readonly invalidation = { type: INVALIDATE_VTD_S1, run: (entry: UserBuffer) => this.#invalidate(entry) };

  constructor(parent: ParentStage, physical: PhysicalMemory, config: VtdS1, cap: bigint, ecap: bigint) {
    this.parent = parent;
    this.#config = config;
    this.#cap = cap;
    this.#ecap = ecap;
    parent.nested++;
    const { pgtbl_addr, addr_width, flags } = config;
    const root = pfnOf(pgtbl_addr);
    const levels = addr_width === 57 ? 5 : 4;
    const writeProtect = (flags & WPE) !== 0n;
    const extendedAccessed = (flags & EAFE) !== 0n;
    const gigabytePages = (cap & CAP_FS1GP) !== 0n;
    const make = { levels, root, writeProtect, extendedAccessed, gigabytePages } as const;
    this.#tables = tablesOver(parent, physical, (memory) => new X86Table(memory, make));
  }

  /** What the PASID-table entry must be able to say (VT-d 4.1, 9.6); the kernel finds out as it writes it. */
  accepts(): number {
    const { addr_width, flags } = this.#config;
    if (addr_width !== 48 && !(addr_width === 57 && (this.#cap & CAP_FS5LP) !== 0n)) return -errno.EINVAL;
    if ((flags & SRE) !== 0n && (this.#ecap & ECAP_SRS) === 0n) return -errno.EINVAL;
    return (flags & EAFE) !== 0n && (this.#ecap & ECAP_EAFS) === 0n ? -errno.EINVAL : 0;
  }

  translate(pfn: number, access: number, pasid: number, commit: boolean): number {
    if (pasid < 0 && pfn >= INTERRUPTS.first && pfn <= INTERRUPTS.last) return DMA_BLOCKED;
    const gpa = this.#cache.translate(this.#tables, pfn, access & (READ | WRITE), commit);
    return gpa < 0 ? gpa : this.parent.translate(gpa, access, -1, commit);
  }

  #invalidate(entry: UserBuffer): number {
    const what = userStruct(vtdS1Invalidate, 'reserved', entry);
    if (typeof what === 'number') return what;
    const { addr, npages, flags, reserved } = what;
    if ((flags & ~INVALIDATE_LEAF) !== 0 || reserved !== 0) return -errno.EOPNOTSUPP;
    const all = npages === 0xffff_ffff_ffff_ffffn;
    if ((addr & 0xfffn) !== 0n || (all && addr !== 0n)) return -errno.EINVAL;
    const first = Number(addr >> 12n);
    if (all) this.#cache.clear();
    else this.#cache.invalidate(first, first + Number(npages) - 1);
    return 0;
  }

  free(): void {
    this.parent.nested--;
  }
}
