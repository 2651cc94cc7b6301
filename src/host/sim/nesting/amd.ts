import { READ, WRITE } from '../../../memory/access.ts';
import { hiOf, loOf, pfnOf } from '../../../memory/address.ts';
import { requireObject } from '../../../memory/arguments.ts';
import { MEM_OK } from '../../../memory/guest-memory.ts';
import { X86Table } from '../../../pagetable/x86.ts';
import { errno } from '../../errno.ts';
import type { PhysicalMemory } from '../memory.ts';
import { Struct } from '../structs.ts';
import { DMA_BLOCKED, type ParentStage } from '../translation.ts';
import { behind, type NestedDomain, type NestingModel, StageOneCache, type Tables, tablesOver } from './model.ts';
import { userStruct } from './user-struct.ts';

/**
 * AMD IOMMU (48882, 2.2.3): guest page tables by the GCR3 table of a guest's device table entry. Linux 7.3 makes vIOMMUs on it
 * (of any type), but no first stage on those yet, though its header names the data; the checks here are those of its
 * drivers/iommu/amd/nested.c. There is no invalidation in the interface, and so nothing is remembered from one access to the next.
 */

const INFO_AMD = 4;
const DATA_AMD_GUEST = 3;

/** struct iommu_hw_info_amd */
const hwInfoAmd = new Struct({ efr: 'u64', efr2: 'u64' });
/** struct iommu_hwpt_amd_guest */
const hwptAmdGuest = new Struct({ dte0: 'u64', dte1: 'u64', dte2: 'u64', dte3: 'u64' });
type GuestDte = ReturnType<typeof hwptAmdGuest.decode>;

/** Extended features (3.4.9): guest translation, 5-level guest tables (GATS 1), 3-level GCR3 tables, 16-bit PASIDs. */
const EFR_GT = 1n << 4n;
const EFR_GATS_5 = 1n << 12n;
const EFR_GLX_3 = 2n << 14n;
const EFR_PASMAX = 15n << 32n;

/** Device table entry (2.2.2.1): Mode and Host Page Table Root Pointer, which the guest's must leave zero. */
const DTE0_HOST = (7n << 9n) | 0xf_ffff_ffff_f000n;
const DTE0_V = 1n;
const DTE0_GV = 1n << 55n;
const DTE0_GIOV = 1n << 54n;

export interface AmdConfig {
  readonly efr?: bigint;
  readonly efr2?: bigint;
}

export function amd(config: AmdConfig = {}): NestingModel {
  requireObject('amd', 'config', config);
  const efr = config.efr ?? EFR_GT | EFR_GATS_5 | EFR_GLX_3 | EFR_PASMAX;
  return {
    infoType: INFO_AMD,
    info(type) {
      if (type !== 0 && type !== INFO_AMD) return null;
      const data = new Uint8Array(hwInfoAmd.bytes);
      hwInfoAmd.encode(data, { efr, efr2: config.efr2 ?? 0n });
      return data;
    },
    nestParent: (efr & EFR_GT) !== 0n,
    virtual: (parent, physical) => ({
      nest(type, data) {
        if (type !== DATA_AMD_GUEST) return -errno.EOPNOTSUPP;
        const dte = userStruct(hwptAmdGuest, 'dte3', data);
        if (typeof dte === 'number') return dte;
        return check(dte, efr) || new AmdStageOne(parent, physical, dte);
      },
    }),
  };
}

/** GCR3 Table Root Pointer, whose bits lie in three places. */
function gcr3(dte: GuestDte): bigint {
  return (((dte.dte0 >> 58n) & 7n) << 12n) | (((dte.dte1 >> 16n) & 0xffffn) << 15n) | (((dte.dte1 >> 43n) & 0x1f_ffffn) << 31n);
}

function check(dte: GuestDte, efr: bigint): number {
  if ((dte.dte0 & DTE0_HOST) !== 0n) return -errno.EINVAL;
  const translates = DTE0_V | DTE0_GV;
  if ((dte.dte0 & translates) === translates && gcr3(dte) === 0n) return -errno.EINVAL;
  const level = (dte.dte2 >> 54n) & 3n;
  if (level > 1n || ((dte.dte0 >> 56n) & 3n) === 3n) return -errno.EINVAL;
  return level === 1n && (efr & (3n << 12n)) === 0n ? -errno.EOPNOTSUPP : 0;
}

class AmdStageOne implements NestedDomain {
  readonly pasids = true;
  readonly parent: ParentStage;
  readonly #physical: PhysicalMemory;
  readonly #dte: GuestDte;

  constructor(parent: ParentStage, physical: PhysicalMemory, dte: GuestDte) {
    this.parent = parent;
    this.#physical = physical;
    this.#dte = dte;
    parent.nested++;
  }

  accepts(): number {
    return 0;
  }

  translate(pfn: number, access: number, pasid: number, commit: boolean): number {
    const { dte0 } = this.#dte;
    if ((dte0 & DTE0_V) === 0n) return DMA_BLOCKED;
    if ((dte0 & DTE0_GV) === 0n || (pasid < 0 && (dte0 & DTE0_GIOV) === 0n)) return this.parent.translate(pfn, access, -1, commit);
    const tables = this.#tables(Math.max(pasid, 0));
    if (tables === null) return DMA_BLOCKED;
    const gpa = new StageOneCache().translate(tables, pfn, access & (READ | WRITE), commit);
    return gpa < 0 ? gpa : this.parent.translate(gpa, access, -1, commit);
  }

  /** Walks the GCR3 table (2.2.6.3): 9 bits of the PASID a level, GLX + 1 levels. */
  #tables(pasid: number): Tables | null {
    const memory = behind(this.parent, this.#physical, false);
    const levels = Number((this.#dte.dte0 >> 56n) & 3n) + 1;
    if (pasid >= 2 ** (9 * levels)) return null;
    let at = gcr3(this.#dte);
    for (let level = levels - 1; level >= 0; level--) {
      const entry = at + BigInt((pasid >> (9 * level)) & 511) * 8n;
      if (memory.load64(hiOf(entry), loOf(entry)) !== MEM_OK || (memory.word[0] & 1) === 0) return null;
      at = ((BigInt(memory.word[1] >>> 0) << 32n) | BigInt(memory.word[0] >>> 0)) & 0xf_ffff_ffff_f000n;
    }
    const fiveLevels = ((this.#dte.dte2 >> 54n) & 3n) === 1n;
    return tablesOver(this.parent, this.#physical, (over) => new X86Table(over, { levels: fiveLevels ? 5 : 4, root: pfnOf(at) }));
  }

  free(): void {
    this.parent.nested--;
  }
}
